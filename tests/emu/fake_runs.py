"""Runs with fake VM processes and real back-end processes."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from emu.config.plan import DiskFile, MachinePlan, MigrationPlan
from emu.config.vm_spec import DeviceGroup, VmSpec
from emu.orchestrator.migrate_local import MigrationSeries
from emu.orchestrator.supervisor import Supervisor
from emu.report.progress import LineProgress
from tests.waiting import open_fds

if TYPE_CHECKING:
    import io
    from collections.abc import Iterator

    from emu.report.results import MigrationReport

FAKE_VM = (sys.executable, str(Path(__file__).with_name("fake_vm.py")))
SMALL = VmSpec(2, 256 << 20, (DeviceGroup("net", 2, 4), DeviceGroup("blk", 2, 2)))


def machine_plan(**changes: Any) -> MachinePlan:
    """A small VM."""
    return MachinePlan(**{"spec": SMALL, **changes})


def disk_file(path: Path, content: bytes, *, writable: bool = False) -> DiskFile:
    """An image file for the first disk."""
    path.write_bytes(content)
    return DiskFile(path, len(content), writable)


@contextmanager
def no_leftovers() -> Iterator[list[int]]:
    """The block appends pids to the list; after it, none of these processes may exist.

    This process must not have more descriptors or children than before either.
    """
    me = psutil.Process()
    before = open_fds()
    # Fixtures of other tests in this process may have programs of their own.
    others = me.children()
    pids: list[int] = []
    yield pids
    assert [pid for pid in pids if psutil.pid_exists(pid)] == []
    assert [child for child in me.children() if child not in others] == []
    assert open_fds() <= before


def run_series(plan: MigrationPlan, out: io.StringIO) -> MigrationReport:
    """Migrate between fake VMs, and check that no process or file is left."""
    directory = None
    with no_leftovers() as pids:
        try:
            supervisor = Supervisor(plan.machine, LineProgress(out), vm_program=FAKE_VM)
            with supervisor:
                directory = supervisor.directory.path
                try:
                    return MigrationSeries(plan, supervisor).run()
                finally:
                    pids += [pid for side in supervisor.sides for pid in side.pids]
        finally:
            assert directory is None or not directory.exists()
