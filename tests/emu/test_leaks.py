"""Twenty migrations in a row leak no descriptors and no threads in any process."""

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
    """The resources of a process: descriptors, memfds among them, threads."""

    fds: int
    memfds: int
    threads: int


def held(pid: int) -> Held:
    """The current resources of a process."""
    process = psutil.Process(pid)
    links = []
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        try:
            links.append(str(fd.readlink()))
        except FileNotFoundError:
            continue
    return Held(len(links), sum("memfd:" in link for link in links), process.num_threads())


def census(sides: list[VmHost]) -> list[Held]:
    """The resources of all processes, once they no longer change."""
    pids = [pid for side in sides for pid in side.pids] + [os.getpid()]
    deadline = time.monotonic() + TIMEOUT
    before: list[Held] = []
    while (counts := [held(pid) for pid in pids]) != before and time.monotonic() < deadline:
        before = counts
        time.sleep(0.05)  # to see whether anything still changes, time must pass
    return counts


def same(early: list[Held], late: list[Held]) -> bool:
    """Whether the processes hold the same; a loop's spare thread is made when a write blocks."""
    return all(
        before[:2] == after[:2] and before.threads <= after.threads <= before.threads + 1
        for before, after in zip(early, late, strict=True)
    )


#: Migrations between two counts: an even number, after which the VM is on the same side again.
PERIOD = len(STRATEGIES)


@pytest.mark.slow
def test_twenty_migrations_leak_no_resources(monkeypatch: pytest.MonkeyPatch) -> None:
    """The resources of every process are the same whenever the VM is on the same side.

    It is looked at before each migration: the destination has been built and listens, the guest
    is under load at the source.
    """
    counts: list[list[Held]] = []
    await_incoming = VmHost.await_incoming

    def look(side: VmHost) -> str:
        uri = await_incoming(side)
        number = len(counts)
        if number in range(PERIOD, 2 * PERIOD):
            # The back-ends close descriptors of stopped rings after a delay.
            time.sleep(1.5 * DELAY_NS / 1e9)
        counts.append(census(supervisor.sides))
        if number in range(3 * PERIOD, 4 * PERIOD):
            end = time.monotonic() + TIMEOUT
            while not same(counts[number - 2 * PERIOD], counts[number]) and time.monotonic() < end:
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
    # The first migrations create resources that stay, such as the threads of a pool.
    for early, late in zip(counts[PERIOD : 2 * PERIOD], counts[3 * PERIOD :], strict=True):
        assert same(early, late), (early, late)
