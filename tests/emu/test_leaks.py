"""Twenty migrations in a row leave nothing behind, in none of the processes."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from backends.deferred_close import DELAY_NS
from emu.config.plan import MachinePlan, MigrationPlan
from emu.config.vm_spec import DeviceGroup, VmSpec
from emu.orchestrator.migrate_local import MigrationSeries
from emu.orchestrator.supervisor import Supervisor
from emu.orchestrator.vm_host import VmHost
from emu.report.progress import SilentProgress
from emu.strategies.registry import STRATEGIES
from tests.emu.fake_runs import no_leftovers
from tests.timeouts import TIMEOUT

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


def census(sides: list[VmHost]) -> list[Held]:
    """What all processes hold, once that has come to rest."""
    pids = [pid for side in sides for pid in side.pids] + [os.getpid()]
    deadline = time.monotonic() + TIMEOUT
    before: list[Held] = []
    while (counts := [held(pid) for pid in pids]) != before and time.monotonic() < deadline:
        before = counts
        time.sleep(0.05)  # to see whether anything still changes, time must pass
    return counts


#: After so many migrations everything is as it was: an even number, as the VM goes back and forth.
PERIOD = len(STRATEGIES)


@pytest.mark.slow
def test_twenty_migrations_leave_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """What every process holds is the same whenever the VM is on the same side.

    It is looked at before each migration: the destination has been built and listens, the guest
    is under load at the source.
    """
    counts: list[list[Held]] = []
    await_incoming = VmHost.await_incoming

    def look(side: VmHost) -> str:
        uri = await_incoming(side)
        number = len(counts)
        if number in range(PERIOD, 2 * PERIOD):
            # What stopped rings leave is tidied up by the clock.
            time.sleep(1.5 * DELAY_NS / 1e9)
        counts.append(census(supervisor.sides))
        if number in range(3 * PERIOD, 4 * PERIOD):
            end = time.monotonic() + TIMEOUT
            while counts[number] != counts[number - 2 * PERIOD] and time.monotonic() < end:
                time.sleep(DELAY_NS / 1e9)
                counts[number] = census(supervisor.sides)
        return uri

    monkeypatch.setattr(VmHost, "await_incoming", look)
    plan = MigrationPlan(
        MachinePlan(SPEC),
        tuple(STRATEGIES),
        repeat=4,
        handing_over=[name for name, strategy in STRATEGIES.items() if strategy.hands_over],
    )
    with no_leftovers() as pids:
        supervisor = Supervisor(plan.machine, SilentProgress())
        with supervisor:
            report = MigrationSeries(plan, supervisor).run()
            pids.extend(pid for side in supervisor.sides for pid in side.pids)
    assert report.ok, report.failure()
    assert len(counts) == 4 * PERIOD
    # In the first rounds some things are made that stay, such as the threads of a pool.
    for early, late in zip(counts[PERIOD : 2 * PERIOD], counts[3 * PERIOD :], strict=True):
        assert late == early
