"""The explanations of FAILs on real peers, from `explanations.toml`.

Each entry has its cases, peers and versions, what the peer does, and why that is wrong. Each FAIL
needs one.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.peers.table import NEWER, PEERS
from vhost_user_conformance.target import ROLES, cases_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tests.peers.record import Record

FILE = Path(__file__).with_name("explanations.toml")


class Explanation(NamedTuple):
    """One entry.

    Attributes:
        peers: their names in the table.
        versions: beginnings of their version, such as ``7.2 10.0``.
        cases: ids.
        does: what the peer does.
        wrong: why that is a fault of the peer.
        sometimes: the case does not fail each time, so that a PASS does not make the entry stale.
    """

    peers: tuple[str, ...]
    versions: str
    cases: tuple[str, ...]
    does: str
    wrong: str
    sometimes: bool = False

    def about(self, record: Record) -> bool:
        """Whether it applies to this peer and version."""
        starts = self.versions.split()
        return record.peer in self.peers and any(_begins(record.version, one) for one in starts)


def _begins(version: str, start: str) -> bool:
    """``7.2.22`` begins with ``7.2`` and not with ``7.22`` or ``7.2.2``."""
    wanted = start.split(".")
    return version.split(".")[: len(wanted)] == wanted


def load(path: Path = FILE) -> list[Explanation]:
    """Load all explanations.

    Raises:
        ValueError: an entry has missing or unknown keys, or an unknown peer or case.
    """
    entries = tomllib.loads(path.read_text()).get("explanation", [])
    return [_checked(entry, number) for number, entry in enumerate(entries, 1)]


def _checked(entry: dict[str, Any], number: int) -> Explanation:
    where = f"explanation {number}"
    unknown = set(entry) - set(Explanation._fields)
    missing = set(Explanation._fields) - {"sometimes"} - set(entry)
    if unknown or missing:
        raise ValueError(f"{where}: unknown {sorted(unknown)}, missing {sorted(missing)}")
    made = Explanation(
        tuple(entry["peers"]),
        entry["versions"],
        tuple(entry["cases"]),
        entry["does"],
        entry["wrong"],
        entry.get("sometimes", False),
    )
    names = {peer.name for peer in (*PEERS, *NEWER)}
    ids = {case.id for role in ROLES for case in cases_of(role)}
    unknown_names = set(made.cases) - ids | set(made.peers) - names
    if unknown_names:
        raise ValueError(f"{where}: unknown {', '.join(sorted(unknown_names))}")
    return made


def of(record: Record, case: str, explanations: Iterable[Explanation]) -> Explanation | None:
    """The entry that explains this failure."""
    fitting = (each for each in explanations if case in each.cases and each.about(record))
    return next(fitting, None)


def unexplained(record: Record, explanations: Sequence[Explanation]) -> list[str]:
    """The cases that ended as FAIL or ERROR without an explanation."""
    return [row.id for row in record.bad if of(record, row.id, explanations) is None]


def stale(records: Sequence[Record], explanations: Iterable[Explanation]) -> list[str]:
    """A line for each entry with cases that do not fail any more."""
    lines = []
    for each in explanations:
        mine = [record for record in records if each.about(record)]
        if each.sometimes or not mine:
            continue
        failing = {row.id for record in mine for row in record.bad}
        gone = [case for case in each.cases if case not in failing]
        if gone:
            where = ", ".join(f"{record.peer} {record.version}" for record in mine)
            lines.append(f"{', '.join(gone)} did not fail on {where}: {each.does}")
    return lines
