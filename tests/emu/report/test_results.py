"""Spans become rows, runs become a document."""

from __future__ import annotations

import json

import pytest

from devices.procedure import Phase
from emu.guest.request_log import RequestLog
from emu.report.results import (
    Integrity,
    MigrationReport,
    MigrationResult,
    PhaseRow,
    Precopy,
    integrity_between,
    median,
    phase_rows,
)
from emu.strategies.timeline import Span
from tests.emu.sides import machine

MS = 1_000_000


def span(phase: Phase, device_class: str, start: int, end: int, *, down: bool = True) -> Span:
    """A span of one unit, in milliseconds."""
    return Span(device_class, "d", 0, phase, start * MS, end * MS, 1, down)


def test_wall_is_from_first_to_last_and_busy_is_the_sum() -> None:
    """Spans that overlap count twice in the one and once in the other."""
    rows = phase_rows(
        [
            span(Phase.GET_VRING_BASE, "net", 10, 20),
            span(Phase.GET_VRING_BASE, "net", 15, 30),
            span(Phase.GET_VRING_BASE, "net", 50, 51, down=False),
        ]
    )
    assert rows == [
        PhaseRow(Phase.GET_VRING_BASE, "net", 20, 25, 2, True),
        PhaseRow(Phase.GET_VRING_BASE, "net", 1, 1, 1, False),
    ]


def test_a_span_of_two_classes_makes_shared_rows() -> None:
    """One commit serves both: the same start and the same end."""
    rows = phase_rows(
        [
            span(Phase.DISABLE_HOST_NOTIFY, "net", 10, 20),
            span(Phase.DISABLE_HOST_NOTIFY, "blk", 10, 20),
            span(Phase.DISABLE_GUEST_NOTIFY, "net", 20, 30),
            span(Phase.DISABLE_GUEST_NOTIFY, "blk", 30, 40),
        ]
    )
    assert [(row.phase, row.shared) for row in rows] == [
        *([(Phase.DISABLE_GUEST_NOTIFY, False)] * 2),
        *([(Phase.DISABLE_HOST_NOTIFY, True)] * 2),
    ]


def test_rows_are_in_the_order_of_the_blackout() -> None:
    """Phases that are never part of one come last."""
    names = [Phase.START_VRINGS, Phase.FINAL_RAM, Phase.PAUSE_VCPUS, Phase.DIRTY_LOG]
    rows = phase_rows([span(name, "vm", 1, 2) for name in names])
    assert [row.phase for row in rows] == [
        Phase.PAUSE_VCPUS,
        Phase.FINAL_RAM,
        Phase.START_VRINGS,
        Phase.DIRTY_LOG,
    ]


def test_a_run_is_judged_by_its_own_share_of_the_books() -> None:
    """The log counts since the boot."""
    before = RequestLog(requests=100, lost=1, packets_sent=10)
    after = RequestLog(requests=150, lost=1, packets_sent=30, packets_lost=2)
    integrity = integrity_between(before, after)
    assert (integrity.requests, integrity.lost, integrity.packets) == (50, 0, 20)
    assert integrity.packets_lost == 2
    assert integrity.clean
    assert not integrity_between(before, after, 1).clean


@pytest.mark.parametrize(
    "wrong",
    ["lost", "duplicated", "corrupted", "errors", "packets_duplicated", "packets_reordered"],
)
def test_one_of_anything_wrong_is_enough(wrong: str) -> None:
    """And it is named."""
    integrity = Integrity(**{wrong: 1})
    assert not integrity.clean
    assert integrity.complaint() == f"{wrong.replace('_', ' ')} 1"


@pytest.mark.parametrize(("guest", "agrees"), [(9.0, True), (10.9, True), (12.5, False)])
def test_a_guest_that_stood_still_for_longer_than_is_accounted_for_is_a_failure(
    guest: float, agrees: bool
) -> None:
    """But for one heartbeat."""
    run = MigrationResult("split", 1, "completed", downtime_ms=10.0, guest_gap_ms=guest)
    report = MigrationReport(machine(), "soft", [run])
    assert report.ok is agrees
    assert ("12.50 ms" in report.failure()) is not agrees


def test_nothing_migrated_is_no_success() -> None:
    """An empty report proves nothing."""
    assert not MigrationReport(machine(), "soft").ok


def test_the_document_has_exactly_the_keys_of_schema_1() -> None:
    """Other tools read it."""
    run = MigrationResult(
        "split",
        1,
        "completed",
        downtime_ms=1.23456789,
        phases=(PhaseRow(Phase.FINAL_RAM, "vm", 1.5, 1.5, 1, True),),
        precopy=Precopy(2, 4096, 1.5),
    )
    asked = machine(control="shared", stop_time=1_500_000)
    document = json.loads(json.dumps(MigrationReport(asked, "soft", [run]).to_json()))
    plan = ("load", "dirty_rate", "control", "stop_policy", "stop_time_ms", "via", "network")
    assert set(document) == {"schema", "host", "vm", "accel", "costs", "runs", *plan}
    values = ["heavy", 0, "shared", "immediate", 1.5, "unix", "loopback"]
    assert [document[key] for key in plan] == values
    assert document["schema"] == 1
    assert document["vm"]["devices"][0] == {"class": "net", "count": 2, "rings": 4}
    assert set(document["vm"]) == {"vcpus", "memory_bytes", "devices"}
    (only,) = document["runs"]
    assert set(only) == {
        "strategy",
        "repeat",
        "outcome",
        "downtime_ms",
        "guest_gap_ms",
        "network_gap_ms",
        "stop_ms",
        "start_ms",
        "commits",
        "requests_in_flight_at_stop",
        "phases",
        "precopy",
        "integrity",
    }
    assert only["downtime_ms"] == 1.2346
    assert set(only["phases"][0]) == {
        "phase",
        "class",
        "wall_ms",
        "busy_ms",
        "count",
        "in_blackout",
        "shared",
    }
    assert set(only["precopy"]) == {
        "rounds",
        "bytes",
        "ms",
        "reason",
        "expected_downtime_ms",
        "expected_memory_ms",
        "expected_stop_ms",
        "expected_start_ms",
        "expected_vcpus_ms",
        "dirty_bytes_per_s",
        "bytes_per_s",
        "throttle_percent",
        "note",
    }
    assert set(only["integrity"]) == {
        "requests",
        "lost",
        "duplicated",
        "corrupted",
        "packets_lost",
        "packets_duplicated",
        "packets_reordered",
    }


def test_the_median_leaves_out_what_is_unknown() -> None:
    """A roll-back has no downtime."""
    assert median([3.0, None, 1.0]) == 2.0
    assert median([None]) is None
