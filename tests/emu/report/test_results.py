"""Rows from spans, documents from runs, and their verdicts."""

from __future__ import annotations

import io
import json
import re
from typing import Any

import pytest

from devices.procedure import Phase
from emu.guest.request_log import RequestLog
from emu.report.results import (
    Integrity,
    MigrationReport,
    MigrationResult,
    PhaseRow,
    Precopy,
    heartbeat_age_ms,
    integrity_between,
    median,
    phase_rows,
)
from emu.report.tables import show
from emu.strategies.timeline import Span
from tests.emu.fake_runs import machine_plan

MS = 1_000_000


def span(phase: Phase, device_class: str, start: int, end: int, *, down: bool = True) -> Span:
    """A span of one unit, in milliseconds."""
    return Span(device_class, "d", 0, phase, start * MS, end * MS, 1, down)


def test_wall_is_from_first_to_last_and_busy_is_the_sum() -> None:
    """Overlapping spans count twice in the sum."""
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
    """Phases that are never part of the blackout are last."""
    names = [Phase.START_VRINGS, Phase.FINAL_RAM, Phase.PAUSE_VCPUS, Phase.DIRTY_LOG]
    rows = phase_rows([span(name, "vm", 1, 2) for name in names])
    assert [row.phase for row in rows] == [
        Phase.PAUSE_VCPUS,
        Phase.FINAL_RAM,
        Phase.START_VRINGS,
        Phase.DIRTY_LOG,
    ]


def test_the_integrity_of_a_run_is_the_difference_of_two_request_logs() -> None:
    """The log counts from the boot on."""
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
def test_one_failure_of_any_counter_is_not_clean(wrong: str) -> None:
    """The text names the counter."""
    changes: dict[str, Any] = {wrong: 1}
    integrity = Integrity(**changes)
    assert not integrity.clean
    assert integrity.failures() == f"{wrong.replace('_', ' ')} 1"


@pytest.mark.parametrize(
    ("guest", "age", "error", "agrees"),
    [
        (9.0, None, None, True),
        (10.9, None, None, True),
        (12.5, None, None, False),
        (12.5, 2.6, None, True),
        (12.5, 0.1, None, False),
        (12.5, 0.0, 2.6, True),
        (12.5, 1.5, 1.5, True),
        (12.504, 2.499, None, True),
    ],
)
def test_an_unexplained_gap_is_reported_and_fails_only_with_strict_downtime(
    guest: float, age: float | None, error: float | None, *, agrees: bool
) -> None:
    """The age of the last heartbeat and the error of the clocks explain a part of the gap."""
    run = MigrationResult(
        "split",
        1,
        "completed",
        downtime_ms=10.0,
        guest_gap_ms=guest,
        heartbeat_age_ms=age,
        downtime_error_ms=error,
    )
    assert run.ok
    assert ("12.50 ms" in run.disagreement) is not agrees
    assert MigrationReport(machine_plan(), "soft", [run]).ok
    strict = MigrationReport(machine_plan(), "soft", [run], strict_downtime=True)
    assert strict.ok is agrees
    assert ("12.50 ms" in strict.failure()) is not agrees
    out = io.StringIO()
    show(MigrationReport(machine_plan(), "soft", [run]), out)
    assert ("a gap of 12.50 ms" in out.getvalue()) is not agrees


@pytest.mark.parametrize(
    "run",
    [
        MigrationResult("split", 1, "rolled-back", error="no route"),
        MigrationResult("split", 1, "rolled-back"),
        MigrationResult("split", 1, "completed", integrity=Integrity(lost=1)),
        MigrationResult("split", 1, "completed", integrity=Integrity(duplicated=1)),
        MigrationResult("split", 1, "completed", integrity=Integrity(errors=1)),
        MigrationResult("split", 1, "completed", missed="no deadlock occurred"),
    ],
)
def test_a_run_that_is_not_ok_has_a_reason(run: MigrationResult) -> None:
    """An assertion or a message that shows it is never empty."""
    assert not run.ok
    assert run.failure.strip(" :")
    assert run.failure in MigrationReport(machine_plan(), "soft", [run]).failure()


def test_the_age_of_the_last_heartbeat_is_not_negative() -> None:
    """A heartbeat after the beginning of the pause has age 0."""
    assert heartbeat_age_ms({"pause_start_ns": 5 * MS, "last_beat_ns": 3 * MS}) == 2.0
    assert heartbeat_age_ms({"pause_start_ns": 3 * MS, "last_beat_ns": 5 * MS}) == 0.0
    assert heartbeat_age_ms({"pause_start_ns": 3 * MS}) is None


def test_a_report_without_migrations_is_not_ok() -> None:
    """Its failure is not empty."""
    assert not MigrationReport(machine_plan(), "soft").ok


def test_the_document_has_exactly_the_keys_of_schema_1() -> None:
    """Other programs parse it."""
    run = MigrationResult(
        "split",
        1,
        "completed",
        downtime_ms=1.23456789,
        phases=(PhaseRow(Phase.FINAL_RAM, "vm", 1.5, 1.5, 1, True),),
        precopy=Precopy(2, 4096, 1.5),
    )
    asked = machine_plan(control="shared", stop_time=1_500_000)
    document = json.loads(json.dumps(MigrationReport(asked, "soft", [run]).to_json()))
    plan = (
        "load",
        "dirty_rate",
        "control",
        "stop_policy",
        "stop_time_ms",
        "back_ends",
        "via",
        "network",
    )
    members = {"schema", "host", "vm", "accel", "costs", "compared", "runs", *plan}
    assert set(document) == members
    values = ["heavy", 0, "shared", "immediate", 1.5, {}, "unix", "loopback"]
    assert [document[key] for key in plan] == values
    assert document["schema"] == 1
    assert document["vm"]["devices"][0] == {
        "class": "net",
        "count": 2,
        "rings": 4,
        "rings_used": [0, 1, 2, 3],
        "rings_disabled": [],
    }
    assert set(document["vm"]) == {"vcpus", "memory_bytes", "devices"}
    (only,) = document["runs"]
    assert set(only) == {
        "strategy",
        "repeat",
        "outcome",
        "downtime_ms",
        "guest_gap_ms",
        "heartbeat_age_ms",
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


def test_the_median_ignores_unknown_values() -> None:
    """Such as the downtime of a roll-back."""
    assert median([3.0, None, 1.0]) == 2.0
    assert median([None]) is None


@pytest.mark.parametrize("excess", [0.0, 0.001, 0.004, 0.006, 0.009, 0.011, 0.5])
@pytest.mark.parametrize("downtime", [0.004, 164.0, 164.034, 164.0349])
def test_a_reported_difference_shows_in_its_figures(downtime: float, excess: float) -> None:
    """A report does not state that a gap of 1.23 ms is longer than 1.23 ms."""
    run = MigrationResult(
        "split",
        1,
        "completed",
        downtime_ms=downtime,
        guest_gap_ms=downtime + excess,
        heartbeat_age_ms=0.0,
    )
    figures = re.findall(r"[0-9.]+ ms", run.disagreement)
    assert len(set(figures)) == len(figures) == (2 if figures else 0)
    assert bool(figures) or excess <= 0.01
