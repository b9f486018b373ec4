"""Migrations in turn, with real processes and sockets on both sides."""

from __future__ import annotations

import hashlib
import io
from typing import TYPE_CHECKING

import pytest

from emu.config.plan import MigrationPlan
from emu.errors import EmuError, MigrationError, ProgramError
from emu.orchestrator import migrate_local, migration_outcome
from tests import slow
from tests.emu.fake_runs import disk_file, machine_plan, run_series

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _no_echo(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait for an echo reply: a fake VM sends none."""
    monkeypatch.setattr(migrate_local, "ECHO_TIMEOUT", 0.0)


def test_strategies_run_in_turn_back_and_forth() -> None:
    """Each run has its figures, and its own share of the request log."""
    out = io.StringIO()
    plan = MigrationPlan(machine_plan(), ("qemu-2021", "split"), repeat=2)
    report = run_series(plan, out)
    assert report.ok
    assert [(run.strategy, run.repeat) for run in report.runs] == plan.sequence
    for run in report.runs:
        assert run.downtime_ms is not None
        assert run.downtime_ms >= 2
        assert run.commits == 6
        assert run.requests_in_flight_at_stop == 5
        assert run.precopy.rounds == 2
        assert run.guest_gap_ms == 1.9
        assert {row.in_blackout for row in run.phases} == {True, False}
    text = out.getvalue()
    assert "migrate 1/4, qemu-2021, A -> B" in text
    assert "migrate 2/4, split, B -> A" in text
    assert "round 1: 1.0 MiB sent" in text
    assert text.count("round 2: 1.0 MiB sent, then switched over") == 4


@pytest.mark.slow
def test_over_tcp_the_source_connects_to_the_destinations_port() -> None:
    """The kernel selects a free port."""
    report = run_series(MigrationPlan(machine_plan(), ("split",), via="tcp"), io.StringIO())
    assert report.ok
    assert report.to_json()["via"] == "tcp"


@pytest.mark.slow
def test_a_roll_back_is_a_result_and_the_series_continues(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next strategy starts from the same side."""
    monkeypatch.setenv("FAKE_VM", "fail-migration")
    out = io.StringIO()
    report = run_series(MigrationPlan(machine_plan(), ("split", "prewired")), out)
    assert [run.outcome for run in report.runs] == ["rolled-back"] * 2
    assert not report.ok
    assert report.failure() == "split, run 1 was rolled-back: net0: refused"
    assert "migrate 2/2, prewired, A -> B" in out.getvalue()


def test_a_lost_request_fails_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """One lost request."""
    monkeypatch.setenv("FAKE_VM", "lose")
    report = run_series(MigrationPlan(machine_plan(), ("split",)), io.StringIO())
    assert not report.ok
    assert "lost" in report.failure()


@pytest.mark.slow
def test_silence_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A migration that emits no event is cancelled."""
    monkeypatch.setenv("FAKE_VM", "hang-migration")
    monkeypatch.setattr(migration_outcome, "SILENCE", 0.5)
    report = run_series(MigrationPlan(machine_plan(), ("split",)), io.StringIO())
    assert report.runs[0].outcome == "rolled-back"
    assert report.runs[0].error == "cancelled"


@pytest.mark.slow
def test_silence_after_the_cancel_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the same time."""
    monkeypatch.setenv("FAKE_VM", "hang-migration mute")
    monkeypatch.setattr(migration_outcome, "SILENCE", 0.5)
    with pytest.raises(MigrationError, match=r"no event for 0\.5 s, twice"):
        run_series(MigrationPlan(machine_plan(), ("split",)), io.StringIO())


@pytest.mark.parametrize(
    ("word", "line"),
    slow.after(
        1,
        [
            ("refuse-create", "VM A: this host cannot have such a VM"),
            ("die-at-start", "VM process A ended with status 7: the fake machine caught fire"),
            ("die-in-migration", "VM process A ended with status 1: KeyError: 'ring'"),
            ("garbage-timeline", "an invalid timeline"),
            ("fail-migration busy", "net0: refused; then VM A: 3 requests are in flight"),
        ],
    ),
)
def test_an_error_is_one_line(monkeypatch: pytest.MonkeyPatch, word: str, line: str) -> None:
    """No process and no file is left, which `run_series` checks."""
    monkeypatch.setenv("FAKE_VM", word)
    with pytest.raises(EmuError) as caught:
        run_series(MigrationPlan(machine_plan(), ("split",)), io.StringIO())
    assert line in str(caught.value)


def test_a_back_end_that_ends_at_the_start_is_named(tmp_path: Path) -> None:
    """With the last line of its stderr."""
    disk = disk_file(tmp_path / "disk.img", bytes(1 << 20))
    disk.path.unlink()
    with pytest.raises(ProgramError, match=r"back-end blk-ro of side [AB] ended .*disk\.img"):
        run_series(MigrationPlan(machine_plan(disk=disk), ("split",)), io.StringIO())


@pytest.mark.slow
def test_the_disk_is_read_across_the_blackout(tmp_path: Path) -> None:
    """The digests of guest and host are equal."""
    content = bytes(range(256)) * 4096
    disk = disk_file(tmp_path / "disk.img", content)
    report = run_series(MigrationPlan(machine_plan(disk=disk), ("split", "split")), io.StringIO())
    assert report.ok
    assert [run.disk_sha256 for run in report.runs] == [hashlib.sha256(content).hexdigest()] * 2


@pytest.mark.slow
def test_another_disk_fails_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even without another failure."""
    monkeypatch.setenv("FAKE_VM", "other-disk")
    disk = disk_file(tmp_path / "disk.img", bytes(1 << 20))
    report = run_series(MigrationPlan(machine_plan(disk=disk), ("split",)), io.StringIO())
    assert not report.ok
    assert "read another disk" in report.failure()
