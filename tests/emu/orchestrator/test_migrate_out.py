"""The source of a migration to another run: its report, and roll-backs."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest

from emu.config.plan import MigrationPlan
from emu.errors import MigrationError
from emu.migration.endpoint import MigrationEndpoint
from emu.orchestrator.migrate_out import OutgoingMigration
from emu.orchestrator.supervisor import Supervisor
from emu.report.progress import LineProgress
from emu.report.results import COMPLETED, ROLLED_BACK
from tests.emu.fake_runs import FAKE_VM, machine_plan
from tests.emu.orchestrator.two_runs import TwoRuns

if TYPE_CHECKING:
    from contextlib import ExitStack
    from pathlib import Path


def test_the_report_has_the_figures_of_both_sides(owned: ExitStack, tmp_path: Path) -> None:
    """The guest's requests are checked at the destination."""
    runs = TwoRuns(tmp_path, owned)
    report = runs.migrate()
    assert report.ok
    (run,) = report.runs
    assert (run.outcome, run.strategy, run.checked_elsewhere) == (COMPLETED, "split", True)
    assert (run.downtime_ms, run.downtime_error_ms, run.guest_gap_ms) == (4.0, 0.25, 5.0)
    assert run.commits == 3 + 2
    assert run.requests_in_flight_at_stop == 5
    assert (run.precopy.rounds, run.precopy.bytes) == (2, 1 << 20)
    assert {(row.phase.side, row.in_blackout) for row in run.phases} == {
        ("src", True),
        ("dst", False),
    }
    document = report.to_json()
    assert document["via"] == "unix"
    assert {row["device"] for row in document["runs"][0]["timeline"]} >= {"blk0"}
    text = runs.here.getvalue()
    assert f"migrate, split, to {runs.endpoint.uri}" in text
    assert "round 1: 1.0 MiB sent" in text
    assert f"the VM runs at {runs.endpoint.uri}" in text


@pytest.mark.slow
def test_without_the_destinations_report_there_are_no_figures(
    owned: ExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The migration has completed nevertheless."""
    monkeypatch.setenv("FAKE_VM", "no-report")
    runs = TwoRuns(tmp_path, owned)
    (run,) = runs.migrate().runs
    assert (run.outcome, run.downtime_ms, run.guest_gap_ms) == (COMPLETED, None, None)
    assert "but its completion report is missing" in runs.here.getvalue()


def test_after_a_roll_back_the_request_log_is_checked(
    owned: ExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_VM", "fail-migration")
    runs = TwoRuns(tmp_path, owned)
    report = runs.migrate()
    (run,) = report.runs
    assert (run.outcome, run.error) == (ROLLED_BACK, "net0: refused")
    assert run.integrity.requests > 0
    assert not report.ok
    assert "the VM runs on here: check its request log" in runs.here.getvalue()


@pytest.mark.slow
def test_a_timeline_that_cannot_be_read_is_an_error(
    owned: ExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_VM", "garbage-timeline")
    with pytest.raises(MigrationError, match="the destination's report is invalid"):
        TwoRuns(tmp_path, owned).migrate()


def test_without_a_listening_destination_no_program_is_started(tmp_path: Path) -> None:
    """Booting a large VM takes long."""
    machine = machine_plan()
    out = io.StringIO()
    with Supervisor(machine, LineProgress(out), sides=1, vm_program=FAKE_VM) as supervisor:
        endpoint = MigrationEndpoint(f"unix:{tmp_path / 'none'}")
        with pytest.raises(MigrationError, match="No such file or directory"):
            OutgoingMigration(MigrationPlan(machine, ("split",)), supervisor, endpoint).run()
        assert [pid for side in supervisor.sides for pid in side.pids] == []
