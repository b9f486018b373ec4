"""Renders reports as printed to a pipe or a terminal."""

from __future__ import annotations

import io

from devices.procedure import Phase
from emu.report import tables as text
from emu.report.results import (
    Integrity,
    MigrationReport,
    MigrationResult,
    PhaseRow,
    Precopy,
)


def run(strategy: str, downtime: float, *rows: PhaseRow, repeat: int = 1) -> MigrationResult:
    """A completed run."""
    return MigrationResult(
        strategy,
        repeat,
        "completed",
        downtime_ms=downtime,
        guest_gap_ms=downtime + 1,
        network_gap_ms=None,
        commits=7,
        requests_in_flight_at_stop=9,
        phases=rows,
        precopy=Precopy(3, 5 << 20, 100.0),
        integrity=Integrity(requests=1000),
    )


def render(report: MigrationReport) -> str:
    """The report as printed to a pipe."""
    out = io.StringIO()
    text.show(report, out)
    return out.getvalue()


BASE = PhaseRow(Phase.GET_VRING_BASE, "net", 100.0, 99.0, 512, True)
FAST = PhaseRow(Phase.GET_VRING_BASE, "net", 10.0, 40.0, 512, True)
AHEAD = PhaseRow(Phase.SET_MEM_TABLE, "blk", 5.0, 6.0, 24, False)


def cells(output: str, *words: str) -> list[str]:
    """The cells of the row that begins with these words."""
    for line in output.splitlines():
        row = [cell.strip() for cell in line.strip("|").split("|")]
        if row[: len(words)] == list(words):
            return row[len(words) :]
    raise AssertionError(f"no row {words} in:\n{output}")
