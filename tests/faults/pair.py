"""Two sides with faulty programs, and one VM that migrates back and forth between them."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from emu.config.plan import MachinePlan
from emu.config.vm_spec import DeviceGroup, VmSpec
from emu.guest.request_log import RequestLog
from emu.orchestrator.backend_processes import BackendProcesses
from emu.orchestrator.managed_process import end
from emu.orchestrator.supervisor import Supervisor
from emu.orchestrator.vm_host import VmHost
from emu.report.progress import SilentProgress
from tests.faults.switch import FaultSwitch

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from emu.orchestrator.backend_programs import ProgramSpec
    from emu.orchestrator.managed_process import ManagedProcess
    from emu.orchestrator.run_directory import RunDirectory
    from emu.orchestrator.signals import SignalWatcher

#: Seconds between two polls of a state that has no event.
POLL = 0.01
HERE = Path(__file__).parent
SPEC = VmSpec(3, 256 << 20, (DeviceGroup("net", 1, 4), DeviceGroup("blk", 2, 2)))


class FaultyBackends(BackendProcesses):
    """Back-ends that each have a switch, and are started again when they have ended.

    A device has a program of its own, so what one does wrong is its own affair.
    """

    def __init__(
        self, side: str, plan: MachinePlan, directory: RunDirectory, watcher: SignalWatcher
    ) -> None:
        super().__init__(side, plan, directory, watcher)
        self._spec_of = {device.name: s for s in self._specs for device in s.devices}
        assert len(self._spec_of) == len(self._specs), "two devices share a program"
        self.switches = {
            name: FaultSwitch(self._switch_file(spec)) for name, spec in self._spec_of.items()
        }
        #: Requests that ended programs had served: a new program counts from 0.
        self._served_by_the_dead = 0

    def expect_death(self, device: str) -> None:
        """From now on the end of this device's back-end is not an error."""
        self._watcher.forget(self._program(device))

    def restart(self, device: str) -> None:
        """End the back-end of this device, in whatever state it is, and start a new one."""
        program = self._program(device)
        self._watcher.forget(program)
        end([program], timeout=0.0)
        self._programs.remove(program)
        spec = self._spec_of[device]
        if spec.device_class == "blk":
            self._served_by_the_dead += self._count(spec)
        self._start_program(spec)
        self.await_ready()

    def served(self) -> int:
        """See `BackendProcesses.served`; those that have ended count as well."""
        return super().served() + self._served_by_the_dead

    def stop(self) -> None:
        """See `BackendProcesses.stop`."""
        super().stop()
        for switch in self.switches.values():
            switch.close()

    def _count(self, spec: ProgramSpec) -> int:
        everyone, self._specs = self._specs, [spec]
        try:
            return super().served()
        finally:
            self._specs = everyone

    def _program(self, device: str) -> ManagedProcess:
        title = f"back-end {self._spec_of[device].name} of side {self.side}"
        return next(program for program in self._programs if program.title == title)

    def _switch_file(self, spec: ProgramSpec) -> Path:
        return self._directory.path / f"{self.side}-{spec.name}.fault"

    def _argv(self, spec: ProgramSpec, ready_fd: int) -> list[str]:
        argv = super()._argv(spec, ready_fd)
        module = argv.index("-m")
        program = [str(HERE / "faulty_backend.py"), spec.device_class]
        argv[module : module + 2] = [*program, "--fault-file", str(self._switch_file(spec))]
        return argv


class FaultyVmHost(VmHost):
    """A side all of whose programs have switches."""

    backends: FaultyBackends

    def __init__(
        self, name: str, plan: MachinePlan, directory: RunDirectory, watcher: SignalWatcher
    ) -> None:
        path = directory.path / f"{name}-vm.fault"
        self.switch = FaultSwitch(path)
        command = (sys.executable, "-P", str(HERE / "faulty_vm.py"), "--fault-file", str(path))
        super().__init__(name, plan, directory, watcher, command)
        self.backends = FaultyBackends(name, plan, directory, watcher)

    @property
    def program(self) -> ManagedProcess:
        """The VM's process."""
        assert self._program is not None
        return self._program

    def expect_death(self) -> None:
        """From now on the end of the VM's process is not an error."""
        self._watcher.forget(self.program)

    @property
    def stopped_or_ended(self) -> bool:
        """Whether the VM's process has ended, or was stopped by a signal."""
        if not self.program.running:
            return True
        stat = Path(f"/proc/{self.program.pid}/stat").read_text()
        return stat.rpartition(")")[2].split()[0] == "T"

    def await_childless(self, timeout: float) -> bool:
        """Whether the VM's process has no child processes after at most ``timeout`` seconds."""
        process = psutil.Process(self.program.pid)
        deadline = time.monotonic() + timeout
        while process.children():
            if time.monotonic() > deadline:
                return False
            self._watcher.pause(POLL)
        return True

    def replace_process(self) -> None:
        """End the VM's process, in whatever state it is, and start an empty one."""
        backends = self.backends
        self.monitor.close()
        self._watcher.forget(self.program)
        os.kill(self.program.pid, signal.SIGKILL)
        end([self.program])
        self._program = None
        self._awaited.clear()
        # The back-ends stay as they are.
        self.backends = _NoBackends()
        try:
            self.start_programs()
            self.await_programs()
        finally:
            self.backends = backends

    def stop(self) -> None:
        """See `VmHost.stop`; it does not wait for a process that is stopped."""
        if self._program is not None and self.stopped_or_ended:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._program.pid, signal.SIGKILL)
        super().stop()
        self.switch.close()


class _NoBackends(FaultyBackends):
    """In place of a side's back-ends, where only its VM process is to be started."""

    def __init__(self) -> None:
        """There are no back-ends."""

    def start(self) -> None:
        """Nothing."""

    def await_ready(self, timeout: float = 0.0) -> None:
        """Nothing."""


class Pair(Supervisor):
    """Both sides, started, with the VM under load at one of them."""

    source: FaultyVmHost
    destination: FaultyVmHost

    def __init__(self) -> None:
        super().__init__(MachinePlan(SPEC, accel="soft", load="heavy"), SilentProgress())
        self._streams = 0
        #: The guest's request log, and the back-ends' own count, when they were compared last.
        self.log = RequestLog()
        self.served = 0

    def __enter__(self) -> Self:
        super().__enter__()
        sides = [
            FaultyVmHost(name, self.plan, self.directory, self.watcher) for name in self._names
        ]
        for side in sides:
            self._stack.callback(side.stop)
        self.sides[:] = sides
        try:
            self.start_programs()
            self.source, self.destination = sides
            self.source.create()
            self.source.boot()
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, trace)

    def next_uri(self) -> str:
        """The address at which the next destination listens."""
        self._streams += 1
        return f"unix:{self.directory.stream(self._streams)}"

    def swap(self, *, fleets: bool) -> None:
        """The VM has moved, and with ``fleets`` has kept its back-ends."""
        if fleets:
            here, there = self.source, self.destination
            here.backends, there.backends = there.backends, here.backends
        self.source, self.destination = self.destination, self.source
