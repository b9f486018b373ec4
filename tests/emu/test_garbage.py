"""A back-end that sends invalid replies ends a run with one line that names it."""

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


def test_an_invalid_reply_is_an_error_of_the_back_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the device and the message; no process is left."""
    garbage = dataclasses.replace(KINDS["blk"], back_end="tests.emu.garbage_backend")
    monkeypatch.setitem(cast("dict[str, DeviceKind]", KINDS), "blk", garbage)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    with pytest.raises(EmuError, match=r"blk0.*GET_FEATURES"):
        migrate()
