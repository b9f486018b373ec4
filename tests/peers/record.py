"""The result of the suite on a peer, stored next to its page: a JSON file for each version.

Passed cases are only counted; a failed one is stored with what was expected and seen.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from vhost_user_conformance.model.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

#: A case that was run several times counts as the first of these among its verdicts.
_WORST = (Verdict.FAIL, Verdict.ERROR, Verdict.OBSERVED, Verdict.PASS, Verdict.UNSUPPORTED)
_BAD = (Verdict.FAIL, Verdict.ERROR)


class Row(NamedTuple):
    """A case that ended as FAIL or ERROR, or differently between runs.

    Attributes:
        id: of the case.
        rule: of the case.
        spec: of the case.
        verdicts: of each run.
        expected: what the rule requires.
        seen: what the peer did instead.
    """

    id: str
    rule: str
    spec: str
    verdicts: tuple[str, ...]
    expected: str
    seen: str

    @property
    def verdict(self) -> Verdict:
        """The verdict of all runs."""
        return worst(self.verdicts)


class Record(NamedTuple):
    """The result of the suite on one peer.

    Attributes:
        peer: its name in the table.
        version: its number.
        version_output: its version output.
        role: back-end or front-end.
        device: class of the device.
        command: that started it, with placeholders.
        seconds: of the longest run.
        runs: number of runs.
        features: feature bits that it offers (or, a front-end, acknowledges).
        protocol: protocol features, likewise.
        rings: number of rings.
        areas: number of each verdict, for each area.
        rows: the cases that are stored.
    """

    peer: str
    version: str
    version_output: str
    role: str
    device: str
    command: str
    seconds: float
    runs: int
    features: int
    protocol: int
    rings: int
    areas: dict[str, dict[str, int]]
    rows: tuple[Row, ...]

    @property
    def name(self) -> str:
        """Beginning of the names of its files."""
        return f"{self.peer}-{self.version}"

    @property
    def bad(self) -> list[Row]:
        """The cases that need an explanation."""
        return [row for row in self.rows if row.verdict in _BAD]

    @property
    def flaky(self) -> list[Row]:
        """The cases whose verdicts differ between runs."""
        return [row for row in self.rows if len(set(row.verdicts)) > 1]

    def total(self, verdict: Verdict) -> int:
        """The number of cases with this verdict."""
        return sum(counts.get(str(verdict), 0) for counts in self.areas.values())

    def save(self, folder: Path) -> None:
        """Write its file."""
        rows = [row._asdict() for row in self.rows]
        text = json.dumps(self._asdict() | {"rows": rows}, indent=1)
        (folder / f"{self.name}.json").write_text(text + "\n")


def worst(verdicts: Sequence[str]) -> Verdict:
    """The verdict of a case with these verdicts."""
    return next(verdict for verdict in _WORST if verdict in verdicts)


def load_all(folder: Path) -> list[Record]:
    """All records in the folder, by name."""
    records = []
    for path in sorted(folder.glob("*.json")):
        whole: dict[str, Any] = json.loads(path.read_text())
        rows = [Row(**row | {"verdicts": tuple(row["verdicts"])}) for row in whole.pop("rows")]
        records.append(Record(**whole, rows=tuple(rows)))
    return records


def distil(
    documents: Sequence[dict[str, Any]],
    *,
    peer: str,
    version: str,
    version_output: str,
    command: str,
    seconds: float,
) -> Record:
    """The record of several runs, each a document of ``emu conform --json``."""
    first = documents[0]
    areas: dict[str, dict[str, int]] = {}
    rows = []
    for same in zip(*(document["cases"] for document in documents), strict=True):
        verdicts = tuple(case["verdict"] for case in same)
        verdict = worst(verdicts)
        counts = areas.setdefault(same[0]["area"], {})
        counts[str(verdict)] = counts.get(str(verdict), 0) + 1
        if verdict in _BAD or len(set(verdicts)) > 1:
            shown = same[verdicts.index(verdict)]
            about: tuple[str, str, str] = (shown["id"], shown["rule"], shown["spec"])
            rows.append(Row(*about, verdicts, shown["expected"], shown["seen"]))
    return Record(
        peer,
        version,
        version_output,
        first["role"],
        first["peer"]["device"] or "",
        command,
        round(seconds, 1),
        len(documents),
        int(first["offered"]["features"], 16),
        int(first["offered"]["protocol_features"], 16),
        first["offered"]["rings"],
        areas,
        tuple(rows),
    )
