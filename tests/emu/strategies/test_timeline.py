"""Spans, marks and their form in JSON."""
# ruff: noqa: D103 - the names describe them

from __future__ import annotations

import json
from typing import Any

import pytest

from devices.procedure import Phase
from emu.strategies.timeline import OpenSpan, Span, Timeline

ROW = ["src", "blk", "blk0", 3, "src.get_vring_base", 10, 20, 1, True]


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("ring", [None, 7])
def test_a_span_is_the_same_after_json(phase: Phase, ring: int | None) -> None:
    span = Span("net", "net1", ring, phase, 5, 9, 2, in_blackout=False)
    row = json.loads(json.dumps(span.to_json()))
    assert row[0] == phase.side
    assert Span.from_json(row) == span


def test_the_row_is_what_a_monitor_returns() -> None:
    assert Span.from_json(ROW).to_json() == ROW


@pytest.mark.parametrize(
    "row",
    [
        [],
        ["src", "blk"],
        [*ROW, 1],
        [*ROW[:4], "src.unknown_phase", *ROW[5:]],
        [*ROW[:5], "soon", *ROW[6:]],
        [*ROW[:6], None, *ROW[7:]],
    ],
)
def test_an_invalid_row_is_refused(row: list[Any]) -> None:
    with pytest.raises((ValueError, TypeError)):
        Span.from_json(row)


def test_each_span_has_the_timelines_in_blackout() -> None:
    timeline = Timeline()
    with timeline.span(Phase.PAUSE_VCPUS):
        timeline.in_blackout = True
    timeline.end(OpenSpan(Phase.START_VRINGS, "blk", "blk0", None, 1), units=4, at=2)
    at = timeline.mark("running_ns")
    inside = [span.in_blackout for span in timeline.spans]
    assert inside == [True, True]
    assert timeline.to_json() == {
        "spans": [span.to_json() for span in timeline.spans],
        "marks": {"running_ns": at},
    }
