"""The catalogue of mutants: one-line protocol mistakes in our own endpoints, as data.

The code of the endpoints is not prepared for it. A mutant has a module, a text that occurs in it
exactly once, and its replacement; `tests.mutants.launch` runs a program with it. The files are
``back_end.toml`` and ``front_end.toml``: an array of tables for each area of the protocol.
"""

from __future__ import annotations

import difflib
import tomllib
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
ROLES = {"back-end": "back_end.toml", "front-end": "front_end.toml"}
DEVICES = ("blk", "net", "rng")
#: Kinds of mistakes that other programs make, and that the suite once did not find: there are at
#: least five mutants of each.
KINDS = {
    "back-end": (
        "dirty log",
        "memory",
        "ring states",
        "notifications",
        "inflight",
        "reset and status",
        "several rings",
        "disk",
        "NIC",
    ),
    "front-end": (
        "features of the last back-end",
        "base after a death",
        "no kick",
        "inflight region over a reset",
        "dirty log",
        "sent once",
        "call and error descriptors",
        "stops",
        "memory regions",
        "back-end channel",
        "status and configuration",
    ),
}
#: In place of a mutant's name: the unmodified endpoint.
UNMUTATED = "unmutated"


class CatalogueError(ValueError):
    """The catalogue does not fit the code; the text has the place."""


class Mutant(NamedTuple):
    """One mistake.

    Attributes:
        name: of the mutant.
        role: of the endpoint that makes it, ``back-end`` or ``front-end``.
        area: of the protocol.
        device: class of device that is run with it.
        module: that is changed.
        original: text that occurs exactly once in the module's source.
        mutated: its replacement, which differs in one line at most.
        mistake: the effect, in one sentence.
        caught_by: ids of cases that find it quickly.
        options: further options of the program, quoted as for a shell.
        kind: one of `KINDS`, or "".
        new_case: the case that finds it was written for it; otherwise it was there before.
        optional: the program is the front-end with further features
            (`tests.vhost_user_conformance.front_end.optional_vm`).
    """

    name: str
    role: str
    area: str
    device: str
    module: str
    original: str
    mutated: str
    mistake: str
    caught_by: tuple[str, ...]
    options: str = ""
    kind: str = ""
    new_case: bool = False
    optional: bool = False

    @property
    def path(self) -> Path:
        """The module's file."""
        return ROOT.joinpath(*self.module.split(".")).with_suffix(".py")

    def apply(self, source: str) -> str:
        """The module's source with the mistake in it.

        Raises:
            CatalogueError: the original text does not occur exactly once.
        """
        count = source.count(self.original)
        if count != 1:
            raise CatalogueError(f"{self.name}: {self.module} has its text {count} times, not once")
        return source.replace(self.original, self.mutated)

    def change(self) -> tuple[list[str], list[str]]:
        """The removed and the added lines."""
        source = self.path.read_text()
        lines = list(difflib.ndiff(source.splitlines(), self.apply(source).splitlines()))
        gone = [line[2:].strip() for line in lines if line.startswith("- ")]
        come = [line[2:].strip() for line in lines if line.startswith("+ ")]
        return gone, come


@cache
def mutants() -> tuple[Mutant, ...]:
    """All mutants, in the order of the files.

    Raises:
        CatalogueError: an entry has missing or unknown keys.
    """
    return tuple(mutant for role in ROLES for mutant in _of_role(role))


def find(name: str) -> Mutant:
    """The mutant of that name.

    Raises:
        CatalogueError: there is no such mutant.
    """
    for mutant in mutants():
        if mutant.name == name:
            return mutant
    raise CatalogueError(f"there is no mutant {name!r}")


def _of_role(role: str) -> list[Mutant]:
    whole = tomllib.loads(Path(__file__).with_name(ROLES[role]).read_text())
    found = []
    for area, entries in whole.items():
        for entry in entries:
            given = {"role": role, "area": area} | entry
            fields = {"device": "blk", **Mutant._field_defaults} | given
            if fields.keys() != set(Mutant._fields):
                wrong = sorted(fields.keys() ^ set(Mutant._fields))
                raise CatalogueError(f"{role}, {area}, {entry.get('name')}: {', '.join(wrong)}")
            fields["caught_by"] = tuple(fields["caught_by"])
            found.append(Mutant(**fields))
    return found
