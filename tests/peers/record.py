"""What came of the suite on a peer, as it is kept beside its page: a JSON file for each version.

Of a case that passed only the number is kept; of one that failed, what was expected and seen.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from vhost_user_conformance.model.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

#: A case that was run several times counts as the first of these that it ever ended as.
_WORST = (Verdict.FAIL, Verdict.ERROR, Verdict.OBSERVED, Verdict.PASS, Verdict.UNSUPPORTED)
_BAD = (Verdict.FAIL, Verdict.ERROR)


class Row(NamedTuple):
    """A case that failed, could not be told, or ended differently from run to run.

    Attributes:
        id: of the case.
        rule: of the case.
        spec: where it is written.
        verdicts: of each run.
        expected: what the rule wants.
        seen: what came instead.
    """

    id: str
    rule: str
    spec: str
    verdicts: tuple[str, ...]
    expected: str
    seen: str

    @property
    def verdict(self) -> Verdict:
        """Of all runs."""
        return worst(self.verdicts)


class Record(NamedTuple):
    """What came of the suite on one peer.

    Attributes:
        peer: its name in the table.
        version: its number.
        said: what it says of its version.
        role: what it is.
        device: its class.
        command: that started it, with its places.
        seconds: of the longest run.
        runs: how many there were.
        features: feature bits that it offers (or, a front-end, acknowledges).
        protocol: protocol features, likewise.
        rings: how many it has.
        areas: how often each verdict came, for each area.
        rows: what is worth telling.
    """

    peer: str
    version: str
    said: str
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
        """Of its files."""
        return f"{self.peer}-{self.version}"

    @property
    def bad(self) -> list[Row]:
        """What needs an explanation."""
        return [row for row in self.rows if row.verdict in _BAD]

    @property
    def flaky(self) -> list[Row]:
        """What did not end in the same way each time."""
        return [row for row in self.rows if len(set(row.verdicts)) > 1]

    def total(self, verdict: Verdict) -> int:
        """How many cases ended so."""
        return sum(counts.get(str(verdict), 0) for counts in self.areas.values())

    def save(self, folder: Path) -> None:
        """Write it."""
        rows = [row._asdict() for row in self.rows]
        text = json.dumps(self._asdict() | {"rows": rows}, indent=1)
        (folder / f"{self.name}.json").write_text(text + "\n")


def worst(verdicts: Sequence[str]) -> Verdict:
    """What a case counts as that ended so."""
    return next(verdict for verdict in _WORST if verdict in verdicts)


def load_all(folder: Path) -> list[Record]:
    """All that are kept there, by name."""
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
    said: str,
    command: str,
    seconds: float,
) -> Record:
    """The record of several runs, each a document as ``emu conform --json`` writes it."""
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
        said,
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
