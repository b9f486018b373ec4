"""Back-ends that send invalid replies, or attack the memory that they have received."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import cast

import pytest

from emu.config.device_kinds import KINDS, DeviceKind
from emu.config.plan import MigrationPlan
from emu.errors import EmuError
from emu.orchestrator.migrate_local import MigrationSeries
from emu.orchestrator.supervisor import Supervisor
from emu.report.progress import SilentProgress
from tests.emu.fake_runs import machine_plan, no_leftovers


def migrate() -> None:
    """Migrate a small VM."""
    with no_leftovers() as pids, Supervisor(machine_plan(), SilentProgress()) as supervisor:
        pids.extend(pid for side in supervisor.sides for pid in side.pids)
        MigrationSeries(MigrationPlan(machine_plan(), ("split",)), supervisor).run()


def use(back_end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have disks served by a program of the tests."""
    other = dataclasses.replace(KINDS["blk"], back_end=f"tests.emu.{back_end}")
    monkeypatch.setitem(cast("dict[str, DeviceKind]", KINDS), "blk", other)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))


def test_guest_memory_cannot_be_cut_off(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The VM goes on, and loses nothing in its migration."""
    attempts = tmp_path / "attempts"
    monkeypatch.setenv("CUT_LOG", str(attempts))
    use("cutting_backend", monkeypatch)
    migrate()
    assert set(attempts.read_text().split()) == {"EPERM"}


def test_an_invalid_reply_is_an_error_of_the_back_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the device and the message; no process is left."""
    use("garbage_backend", monkeypatch)
    with pytest.raises(EmuError, match=r"blk0.*GET_FEATURES"):
        migrate()
