"""Twenty migrations in a row leave nothing behind, in none of the processes."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import psutil

from emu.migration_series import MigrationSeries
from emu.plan import MachinePlan, MigrationPlan
from emu.progress import SilentProgress
from emu.shape import DeviceGroup, VmSpec
from emu.side import Side
from emu.supervisor import Supervisor

from .sides import nothing_left

if TYPE_CHECKING:
    import pytest

SPEC = VmSpec(4, 1 << 30, (DeviceGroup("net", 2, 4), DeviceGroup("blk", 2, 2)))


class Held(NamedTuple):
    """What a process holds: descriptors, memfds among them, threads."""

    fds: int
    memfds: int
    threads: int


def held(pid: int) -> Held:
    """What it holds now."""
    process = psutil.Process(pid)
    links = []
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        try:
            links.append(str(fd.readlink()))
        except FileNotFoundError:
            continue
    return Held(len(links), sum("memfd:" in link for link in links), process.num_threads())


def census(sides: list[Side]) -> list[Held]:
    """What all processes hold, once that has come to rest."""
    pids = [pid for side in sides for pid in side.pids] + [os.getpid()]
    deadline = time.monotonic() + 5
    before: list[Held] = []
    while (counts := [held(pid) for pid in pids]) != before and time.monotonic() < deadline:
        before = counts
        time.sleep(0.05)  # to see whether anything still changes, time must pass
    return counts


def test_twenty_migrations_leave_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """What every process holds is the same whenever the VM is on the same side.

    It is looked at before each migration: the destination has been built and listens, the guest
    is under load at the source.
    """
    counts: list[list[Held]] = []
    await_incoming = Side.await_incoming

    def look(side: Side) -> str:
        uri = await_incoming(side)
        counts.append(census(supervisor.sides))
        return uri

    monkeypatch.setattr(Side, "await_incoming", look)
    plan = MigrationPlan(MachinePlan(SPEC), ("qemu-2021", "threads", "split", "prewired"), repeat=5)
    with nothing_left() as pids:
        supervisor = Supervisor(plan.machine, SilentProgress())
        with supervisor:
            report = MigrationSeries(plan, supervisor).run()
            pids.extend(pid for side in supervisor.sides for pid in side.pids)
    assert report.ok, report.failure()
    assert len(counts) == 20
    # In the first rounds some things are made that stay, such as the threads of a pool.
    for early, late in zip(counts[4:8], counts[16:20], strict=True):
        assert late == early
