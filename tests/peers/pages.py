"""The results as documents: an index, and a page for each peer and version."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.peers import explanations as explained
from tests.peers.feature_names import features, protocol_features
from tests.peers.table import NEWER, PEERS
from vhost_user_conformance.model.case import BACK_END, FRONT_END
from vhost_user_conformance.model.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from tests.peers.explanations import Explanation
    from tests.peers.record import Record, Row

INDEX = "README.md"
#: Lines of evidence that a page shows.
_SHOWN = 14
_VERDICTS = (
    Verdict.PASS,
    Verdict.FAIL,
    Verdict.UNSUPPORTED,
    Verdict.OBSERVED,
    Verdict.ERROR,
)
_WRITTEN = (
    "Written by `make peers`; the explanations of FAILs are in\n"
    "[tests/peers/explanations.toml](../../../tests/peers/explanations.toml)."
)
_COUNTED = """Each of these programs is from Debian 12, from a newer release of Debian (in a chroot:
`make peers-newer`) or from this project, and ran on 2 cores that had much other work (a load of 20
to 50); *time* is that of the longest run, and several times what idle cores need.
A case counts as FAIL if it failed in at least one run. For each FAIL its page has the reason why
the peer is at fault and not the suite.

Most UNSUPPORTED cases are about another class of device, or about protocol features that are not
offered: few of these back-ends have DEVICE_STATE, and none has CROSS_ENDIAN, INBAND_NOTIFICATIONS,
SHARED_OBJECT or SHMEM. The cases about those are tested by
`tests/vhost_user_conformance/back_end/cases/test_optional.py`. libvhost-user acknowledges an
invalid request with 0 and closes the connection after that. That is OBSERVED: the front-end detects
the error by the closed connection, not by the code."""


def write(folder: Path, records: Sequence[Record], entries: Sequence[Explanation]) -> None:
    """Write all documents, and remove pages without a record."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = documents(records, entries)
    for path in folder.glob("*.md"):
        if path.name not in texts:
            path.unlink()
    for name, text in texts.items():
        (folder / name).write_text(text)


def documents(records: Sequence[Record], entries: Sequence[Explanation]) -> dict[str, str]:
    """Each document, by the name of its file."""
    pages = {f"{record.name}.md": page(record, entries) for record in records}
    return {INDEX: index(records)} | pages


def index(records: Iterable[Record]) -> str:
    """All peers, a row each."""
    places = {peer.name: place for place, peer in reversed([*enumerate((*PEERS, *NEWER))])}
    ordered = sorted(
        records, key=lambda record: (places.get(record.peer, len(places)), record.version)
    )
    parts = ["# Results on known peers", _WRITTEN, _COUNTED]
    for role, title in ((BACK_END, "Back-ends"), (FRONT_END, "Front-ends")):
        head = [f"| peer | version | {' | '.join(_VERDICTS)} | time |"]
        head.append("|---" * (len(_VERDICTS) + 3) + "|")
        rows = [_index_row(record) for record in ordered if record.role == role]
        parts += [f"## {title}", "\n".join(head + rows)]
    return "\n\n".join(parts) + "\n"


def _index_row(record: Record) -> str:
    counts = " | ".join(str(record.total(verdict)) for verdict in _VERDICTS)
    link = f"[{record.peer}]({record.name}.md)"
    return f"| {link} | {record.version} | {counts} | {record.seconds:.0f} s |"


def page(record: Record, entries: Sequence[Explanation]) -> str:
    """One peer in one version."""
    parts = [
        f"# {record.peer} {record.version}",
        _WRITTEN,
        _facts(record),
        _areas(record),
        _failures(record, entries),
    ]
    errors = [row for row in record.bad if row.verdict is Verdict.ERROR]
    if errors:
        evidence = [_evidence(row) for row in errors]
        parts += ["## ERROR: the suite has no verdict", *evidence]
    if record.flaky:
        lines = [f"- {row.id} ({row.rule}): {', '.join(row.verdicts)}" for row in record.flaky]
        parts += ["## Verdicts that differ between runs", "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def _facts(record: Record) -> str:
    what = "offers" if record.role == BACK_END else "acknowledges"
    named = ", ".join(features(record.features, record.device))
    protocol = ", ".join(protocol_features(record.protocol))
    device = f" --device {record.device}" if record.device else ""
    command = f"emu conform {record.role}{device} --exec \\\n        '{record.command}'"
    runs = f"{record.runs} runs" if record.runs > 1 else "1 run"
    return "\n".join(
        (
            f"    {command}",
            "",
            f"- version: `{record.version_output}`",
            f"- {runs} of up to {record.seconds:.0f} s",
            f"- {what} {record.features:#x}: {named or 'nothing'}",
            f"- protocol features {record.protocol:#x}: {protocol or 'none'}",
            f"- rings: {record.rings}",
        )
    )


def _areas(record: Record) -> str:
    lines = [f"| area | {' | '.join(_VERDICTS)} |", "|---" * (len(_VERDICTS) + 1) + "|"]
    for area, counts in record.areas.items():
        cells = (str(counts.get(str(verdict), "-")) for verdict in _VERDICTS)
        lines.append(f"| {area} | {' | '.join(cells)} |")
    totals = " | ".join(str(record.total(verdict)) for verdict in _VERDICTS)
    return "\n".join(["## By area", "", *lines, f"| all | {totals} |"])


def _failures(record: Record, entries: Sequence[Explanation]) -> str:
    """Each FAIL, grouped by explanation."""
    failed = [row for row in record.bad if row.verdict is Verdict.FAIL]
    if not failed:
        return "## FAIL\n\nNone."
    groups: dict[Explanation | None, list[Row]] = {}
    for row in failed:
        groups.setdefault(explained.of(record, row.id, entries), []).append(row)
    parts = ["## FAIL"]
    for entry, rows in groups.items():
        parts.append(f"### {', '.join(row.id for row in rows)}")
        if entry is None:
            parts.append("**Not explained yet.**")
        else:
            often = " This does not happen each time." if entry.sometimes else ""
            parts.append(f"What it does: {entry.does}.{often}\n\nWhy that is wrong: {entry.wrong}.")
        parts += [_evidence(row) for row in rows]
    return "\n\n".join(parts)


def _evidence(row: Row) -> str:
    first, *rest = row.seen.splitlines() or [""]
    lines = [
        f"{row.id} {row.verdict} {row.rule} ({row.spec})",
        *([f"  expected: {row.expected}"] if row.expected else []),
        f"  seen: {first}",
        *(f"    {line}" for line in rest[:_SHOWN]),
    ]
    return "\n".join(f"    {line}" for line in lines)
