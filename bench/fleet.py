"""The back-end programs of a VM and its devices, without a VM that runs.

The guest's memory and rings are real, the back-ends are the real programs, each ring is started
by a real kick. What is missing is everything that is no protocol: vCPUs run nothing, and the
edits of notifiers go nowhere.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from types import MappingProxyType
from typing import TYPE_CHECKING, Self

from devices import lifecycle
from devices.procedure import AwaitSwitchover
from emu.config.costs import NATIVE
from emu.config.plan import MachinePlan
from emu.orchestrator import host_limits
from emu.orchestrator.backend_processes import BackendProcesses
from emu.orchestrator.run_directory import RunDirectory
from emu.orchestrator.signals import SignalWatcher
from emu.strategies.split import Split
from emu.strategies.task import Stage, Task, begin_tasks
from emu.strategies.timeline import Timeline
from emu.vm.vm import Vm
from vhost_user.messages import FrontendRequest, Request

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from devices.notifiers import Edit
    from emu.config.backend_commands import BackEndCommand
    from emu.config.vm_spec import VmSpec

TIMEOUT = 10.0
_POLL = 0.0005
NO_OTHERS: Mapping[str, BackEndCommand] = MappingProxyType({})


class _NoMachine:
    """Takes edits, and does nothing about them."""

    def apply(self, edits: Sequence[Edit]) -> None:
        pass


class Fleet:
    """Devices with their back-ends, as a context manager.

    Args:
        spec: the shape; one vCPU is enough.
        back_ends: commands of other back-end programs, by class of devices.
    """

    def __init__(self, spec: VmSpec, back_ends: Mapping[str, BackEndCommand] = NO_OTHERS) -> None:
        self.spec = spec
        self._plan = MachinePlan(spec, back_ends=back_ends)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        host_limits.check(self.spec)
        with ExitStack() as stack:
            watcher = stack.enter_context(SignalWatcher())
            directory = stack.enter_context(RunDirectory())
            fleet = BackendProcesses("A", self._plan, directory, watcher)
            stack.callback(fleet.stop)
            fleet.start()
            fleet.await_ready()
            self._fleet = fleet
            self.vm = Vm(self.spec, accel="soft", costs=NATIVE, backends=fleet.sockets)
            stack.callback(self.vm.close)
            self.vm.guest.boot()
            for index, device in enumerate(self.vm.devices):
                device.set_up_rings(self.vm.guest.ring_addresses(index))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def stage(self) -> Stage:
        """A stage on which tasks are driven."""
        return Stage(_NoMachine(), Timeline(), TIMEOUT)

    def stopping(self) -> list[Task]:
        """The tasks that stop the devices."""
        return begin_tasks(self.vm.devices, lifecycle.stop)

    def starting(self) -> list[Task]:
        """The tasks that start the devices, on new connections."""
        sockets = self._fleet.sockets
        for device in self.vm.devices:
            device.disconnect()
            device.connect(sockets[device.name], timeout=TIMEOUT)
            # The notifiers stay assigned: only the protocol is measured.
            device.host_notifiers = device.guest_notifiers = True
            for ring in device.rings:
                ring.ran = False  # as at a destination: no kick is pending
        return begin_tasks(self.vm.devices, lifecycle.start_ahead)

    def activating(self) -> list[Task]:
        """The same tasks, driven up to the point that waits for the switch-over."""
        tasks = self.starting()
        Split().drive(tasks, self.stage(), halt=AwaitSwitchover)
        for device in self.vm.devices:
            # Its reply comes when the messages that were sent ahead have been handled.
            device.connection.call(Request(FrontendRequest.GET_FEATURES), TIMEOUT)
        return tasks

    def run(self) -> None:
        """Start all devices, and wait until all rings run."""
        Split().drive(self.starting(), self.stage())
        self.kick()

    def kick(self) -> None:
        """Kick every ring, and return when our back-ends have started theirs; others do not say."""
        counted = [d for d in self.spec.devices if not self._plan.others_serve(d.device_class)]
        wanted = self._started() + sum(device.rings for device in counted)
        self.vm.signal_all_rings()
        deadline = time.monotonic() + TIMEOUT
        while self._started() < wanted:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{wanted - self._started()} rings have not been started")
            time.sleep(_POLL)  # counters in shared memory cause no event

    def _started(self) -> int:
        return sum(counters["ring_starts"] for counters in self._fleet.totals().values())
