"""The catalogue of mutants: one-line protocol mistakes in our own endpoints, as data.

The endpoints know nothing of it. A mutant names a module, a text that occurs in it exactly once,
and what stands there instead; `tests.mutants.launch` runs a program with that. The files are
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
DEVICES = ("blk", "net")
#: Instead of a mutant's name: the endpoint as it is.
UNMUTATED = "unmutated"


class CatalogueError(ValueError):
    """The catalogue does not fit the code; the text says where."""


class Mutant(NamedTuple):
    """One mistake.

    Attributes:
        name: what it is called.
        role: of the endpoint that makes it, ``back-end`` or ``front-end``.
        area: of the protocol.
        device: class of device that is run with it.
        module: where it is made.
        original: text that occurs exactly once in the module's source.
        mutated: what stands there instead; not more than one line differs.
        mistake: what is wrong then, in one sentence.
        caught_by: ids of cases that find it, and find it soon.
        options: that the program is given besides, as a shell would have them.
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

    @property
    def path(self) -> Path:
        """The module's file."""
        return ROOT.joinpath(*self.module.split(".")).with_suffix(".py")

    def apply(self, source: str) -> str:
        """The module's source with the mistake in it.

        Raises:
            CatalogueError: the original text is not there, or not once.
        """
        count = source.count(self.original)
        if count != 1:
            raise CatalogueError(f"{self.name}: {self.module} has its text {count} times, not once")
        return source.replace(self.original, self.mutated)

    def change(self) -> tuple[list[str], list[str]]:
        """The lines that go, and those that come."""
        source = self.path.read_text()
        lines = list(difflib.ndiff(source.splitlines(), self.apply(source).splitlines()))
        gone = [line[2:].strip() for line in lines if line.startswith("- ")]
        come = [line[2:].strip() for line in lines if line.startswith("+ ")]
        return gone, come


@cache
def mutants() -> tuple[Mutant, ...]:
    """All of them, in the order of the files.

    Raises:
        CatalogueError: an entry lacks something, or has something else.
    """
    return tuple(mutant for role in ROLES for mutant in _of_role(role))


def find(name: str) -> Mutant:
    """The mutant of that name.

    Raises:
        CatalogueError: there is none.
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
            fields = {"device": "blk", "role": role, "area": area, "options": ""} | entry
            if fields.keys() != set(Mutant._fields):
                wrong = sorted(fields.keys() ^ set(Mutant._fields))
                raise CatalogueError(f"{role}, {area}, {entry.get('name')}: {', '.join(wrong)}")
            fields["caught_by"] = tuple(fields["caught_by"])
            found.append(Mutant(**fields))
    return found
