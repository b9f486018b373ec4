"""This project's side of the control run, as `emu run` and `emu migrate` run a VM."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from bench.qemu_baseline.guest_memory import MemoryPage
from bench.qemu_baseline.measurement import (
    STOP_TIMEOUT,
    MigrationFigures,
    StopFigures,
    gap_of_migration,
    stop_and_cont,
)
from emu.errors import EmuError
from emu.guest.heartbeat import COUNT
from emu.guest.layout import BASE
from emu.orchestrator.migration_outcome import MigrationOutcome, completed, reason
from emu.orchestrator.supervisor import Supervisor
from emu.report.progress import SilentProgress
from vhost_user.memory import PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from emu.config.plan import MachinePlan
    from emu.orchestrator.vm_host import VmHost
    from emu.qmp.protocol import JsonObject

#: The name of the memfd of the memory from guest-physical address 0 on (`emu.machine.ram`).
_MEMFD = "guest-ram-0x0"
#: Guest-physical address of the page with the heartbeat, behind the control page.
_PULSE = BASE + PAGE_SIZE


class EmuSide:
    """One side of the VM while the VM is there, or on its way.

    Args:
        host: its process and its back-ends.
        before: inodes of the memory of earlier VMs of this process, of which parts may still be
            open; that of this VM is added.
    """

    def __init__(self, host: VmHost, before: set[int]) -> None:
        self._host = host
        page = MemoryPage(host.pids[0], _MEMFD, _PULSE, before)
        before.add(page.inode)
        self._beats = page.counter(8 * COUNT)

    @property
    def beats(self) -> memoryview:
        """See `Side.beats`."""
        return self._beats

    def execute(
        self, command: str, arguments: JsonObject | None = None, timeout: float = STOP_TIMEOUT
    ) -> JsonObject:
        """Execute a command of the VM's monitor; raises `EmuError`."""
        return self._host.execute(command, arguments, timeout)


class EmuVm:
    """The VM of this project, as `MeasuredVm`. Its migrations are back and forth.

    Args:
        plan: the VM and its back-ends.
        strategies: of the migrations, none of which hands the devices over.
    """

    def __init__(self, plan: MachinePlan, strategies: Sequence[str]) -> None:
        self._strategies = tuple(strategies)
        self._plan = plan
        self._supervisor = Supervisor(plan, SilentProgress())
        self._migrations = 0
        self._memory: set[int] = set()

    def __enter__(self) -> Self:
        self._supervisor.__enter__()
        self._source, self._destination = self._supervisor.sides
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._supervisor.__exit__(kind, error, trace)
        if error is None:
            self._supervisor.watcher.raise_signal()

    def boot(self) -> None:
        """See `MeasuredVm.boot`."""
        self._source.start_programs()
        self._source.await_programs()
        self._source.create()
        self._source.boot()
        self._side = EmuSide(self._source, self._memory)

    def stop_and_cont(self) -> StopFigures:
        """See `MeasuredVm.stop_and_cont`."""
        return stop_and_cont(self._side, self._supervisor.watcher)

    def migrate(self) -> dict[str, MigrationFigures]:
        """See `MeasuredVm.migrate`."""
        self._destination.start_programs()
        self._destination.await_programs()
        return {
            strategy: self._migrate(strategy, first=not number)
            for number, strategy in enumerate(self._strategies)
        }

    def _migrate(self, strategy: str, *, first: bool) -> MigrationFigures:
        source, destination = self._source, self._destination
        self._migrations += 1
        stream = self._supervisor.directory.stream(self._migrations)
        # The process at the destination has had the VM before, unless it is the first migration.
        destination.begin_incoming(f"unix:{stream}", release=not first)
        uri = destination.await_incoming()
        for host in (source, destination):
            host.monitor.events.clear()

        def migrate() -> None:
            source.execute("migrate", {"uri": uri, "strategy": strategy, "options": {}})
            ended = MigrationOutcome(
                {"source": source, "destination": destination}, self._supervisor.watcher
            ).wait()
            for outcome in ended.values():
                if not completed(outcome):
                    raise EmuError(f"the migration by {strategy} failed: {reason(outcome)}")

        there = EmuSide(destination, self._memory)
        gap = gap_of_migration(self._side, there, migrate, self._supervisor.watcher)
        self._side = there
        paused = int(source.execute("x-timeline")["marks"]["pause_start_ns"])
        running = int(destination.execute("x-timeline")["marks"]["running_ns"])
        self._source, self._destination = destination, source
        return MigrationFigures(gap, (running - paused) / 1e6)
