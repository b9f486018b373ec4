"""Spans of both sides on one time axis."""

from __future__ import annotations

from devices.procedure import Phase
from emu.report.timeline import timeline_rows
from emu.strategies.timeline import Span

MS = 1_000_000


def span(phase: Phase, device: str, ring: int | None, start: int, end: int) -> Span:
    """A span of one unit, in milliseconds."""
    return Span("net", device, ring, phase, start * MS, end * MS, 1, True)


def test_rings_become_their_device_and_times_begin_at_the_pause() -> None:
    """From the first start to the last end; the sum and the count are of all rings."""
    source = [
        span(Phase.GET_VRING_BASE, "net1", 0, 110, 112),
        span(Phase.GET_VRING_BASE, "net0", 0, 101, 103),
        span(Phase.GET_VRING_BASE, "net0", 1, 105, 106),
    ]
    first, second = timeline_rows(source, [], 100 * MS)
    assert (first.device, first.start_ms, first.end_ms) == ("net0", 1, 6)
    assert (first.busy_ms, first.count) == (3, 2)
    assert (second.device, second.start_ms) == ("net1", 10)


def test_a_phase_in_two_parts_has_two_rows() -> None:
    """Lock-step: a message to each device, and only then another one to each."""
    spans = [
        *(span(Phase.SET_MEM_TABLE, f"blk{n}", None, 100 + 2 * n, 102 + 2 * n) for n in range(9)),
        *(span(Phase.SET_MEM_TABLE, f"blk{n}", None, 120 + 2 * n, 121 + 2 * n) for n in range(9)),
    ]
    rows = timeline_rows([], spans, 100 * MS)
    assert [row.device for row in rows] == [f"blk{n}" for n in range(9)] * 2
    assert [row.end_ms - row.start_ms for row in rows] == [2] * 9 + [1] * 9


def test_short_pauses_do_not_divide_a_phase() -> None:
    """Nor pauses that are shorter than what has been done until then."""
    spans = [
        span(Phase.START_VRINGS, "net0", ring, start, start + 1)
        for ring, start in enumerate((100, 102, 105, 112))
    ]
    (row,) = timeline_rows([], spans, 100 * MS)
    assert (row.start_ms, row.end_ms, row.busy_ms, row.count) == (0, 13, 4, 4)


def test_the_destination_s_clock_is_ahead() -> None:
    """Its times are shifted by the offset."""
    (row,) = timeline_rows([], [span(Phase.START_VRINGS, "net0", None, 5030, 5040)], 0, 5000 * MS)
    assert (row.start_ms, row.end_ms) == (30, 40)
    assert row.to_json() == {
        "phase": "dst.start_vrings",
        "class": "net",
        "device": "net0",
        "start_ms": 30,
        "end_ms": 40,
        "busy_ms": 10,
        "count": 1,
        "in_blackout": True,
    }
