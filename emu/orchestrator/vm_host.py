"""One side of a migration: a VM's process, and the back-end programs of its devices."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, NamedTuple

from emu.config.device_kinds import KINDS
from emu.config.vm_file import spec_to_json
from emu.errors import HangUpError, ProgramError
from emu.guest.request_log import RequestLog
from emu.migration.endpoint import StreamSecurity
from emu.orchestrator.backend_processes import READY_TIMEOUT, BackendProcesses
from emu.orchestrator.managed_process import (
    PYTHON,
    ManagedProcess,
    await_end,
    end,
)
from emu.qmp.client import MonitorClient

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from emu.config.plan import MachinePlan
    from emu.orchestrator.run_directory import RunDirectory
    from emu.orchestrator.signals import SignalWatcher
    from emu.qmp.client import Event
    from emu.qmp.protocol import JsonObject

VM_PROGRAM = (*PYTHON, "-m", "emu.vm_process")
#: Timeouts in seconds: of a short command, and of one that builds, boots or reads back a whole VM.
QUICK = 20.0
SLOW = 120.0


class Verified(NamedTuple):
    """The check of the blocks that the guest has written.

    Attributes:
        corrupted: the number of blocks, read back and in the images, that are not as it wrote.
        all_images: the images of all scratch disks were read.
    """

    corrupted: int
    all_images: bool = True


class VmHost:
    """A VM's process and its back-ends; commands go to the process over its monitor.

    Args:
        name: ``A`` or ``B``.
        plan: the VM and its back-ends.
        directory: where the run keeps its files.
        watcher: raises when a signal arrives or a process ends during a wait.
        vm_program: the command that runs a VM's process.
    """

    def __init__(
        self,
        name: str,
        plan: MachinePlan,
        directory: RunDirectory,
        watcher: SignalWatcher,
        vm_program: Sequence[str] = VM_PROGRAM,
    ) -> None:
        self.name = name
        self.backends = BackendProcesses(name, plan, directory, watcher)
        self._plan = plan
        self._directory = directory
        self._log = directory.log(name, "vm")
        self._watcher = watcher
        self._vm_program = vm_program
        self._program: ManagedProcess | None = None
        self._monitor: MonitorClient | None = None
        self._awaited: list[int] = []
        #: The accelerator of the incoming VM; set by `await_incoming`.
        self.accel = ""
        #: The back-ends' counters count the requests of the guest's log; set by `request_log`.
        self.counters_match = True

    @property
    def monitor(self) -> MonitorClient:
        """The monitor of the VM's process.

        Raises:
            ProgramError: the process has not been started.
        """
        if self._monitor is None:
            raise ProgramError(f"VM process {self.name} has not been started")
        return self._monitor

    @property
    def counted(self) -> bool:
        """See `MachinePlan.counted`."""
        return self._plan.counted

    @property
    def disk_stats(self) -> list[str] | None:
        """See `BackendProcesses.disk_stats`; None if other back-ends have no such counters."""
        return self.backends.disk_stats if self.counted else None

    @property
    def pids(self) -> list[int]:
        """The ids of the VM's process and the back-end programs."""
        vm = [] if self._program is None else [self._program.pid]
        return vm + self.backends.pids

    def start_programs(self) -> None:
        """Start the VM's process and the back-ends, without waiting for them."""
        ours, theirs = socket.socketpair()
        with theirs:
            self._monitor = MonitorClient(ours, f"VM {self.name}", self._watcher)
            argv = [*self._vm_program, "--monitor-fd", str(theirs.fileno())]
            for plugin in self._plan.plugins:
                argv += ["--plugin", str(plugin)]
            self._program = ManagedProcess(
                f"VM process {self.name}", argv, log=self._log, pass_fds=(theirs.fileno(),)
            )
        self._watcher.watch(self._program)
        self.backends.start()

    def await_programs(self) -> None:
        """Return when the back-ends listen and the VM's process answers.

        Raises:
            EmuError: a program ended, or is not ready in time.
        """
        self.backends.await_ready()
        try:
            self.monitor.negotiate(READY_TIMEOUT)
        except HangUpError:
            raise self._ended() from None

    def execute(
        self, command: str, arguments: JsonObject | None = None, timeout: float = QUICK
    ) -> JsonObject:
        """Execute a command in the VM's process.

        Raises:
            EmuError: the command failed, was not answered in time, or the process ended.
        """
        try:
            return self.monitor.execute(command, arguments, timeout=timeout)
        except HangUpError:
            raise self._ended() from None

    def take_events(self) -> Iterator[Event]:
        """The events since the last call; does not wait.

        Raises:
            ProgramError: the VM's process has ended.
        """
        try:
            self.monitor.receive()
        except HangUpError:
            raise self._ended() from None
        events = self.monitor.events
        while events:
            yield events.popleft()

    def create(self) -> str:
        """Configure the VM in its process; returns the accelerator that it will use."""
        return str(self.execute("x-create", self._vm_arguments())["accel"])

    def serve_users(
        self,
        path: Path,
        *,
        disks: JsonObject | None = None,
        incoming: JsonObject | None = None,
        security: StreamSecurity = StreamSecurity(),  # noqa: B008
    ) -> None:
        """Serve QMP at ``path``, for the users' programs.

        Args:
            path: of the socket.
            disks: identifies the images, if the VM migrates to another run.
            incoming: the same, if it arrives from there.
            security: of the migrations.

        Raises:
            EmuError: no socket can be made there.
        """
        arguments = {
            "path": str(path.absolute()),
            "disks": disks,
            "incoming": incoming,
            "stats": self.disk_stats,
            "tls": security.tls,
            "insecure": security.insecure,
        }
        self.execute("x-monitor", arguments)

    def boot(self) -> None:
        """Boot the guest and start its load."""
        self.execute("x-start", timeout=SLOW)

    def begin_incoming(
        self, uri: str, *, handover: bool = False, release: bool = False, **arguments: Any
    ) -> None:
        """Send the commands that build the VM and listen for its migration; do not wait.

        Args:
            uri: where to listen.
            handover: the source hands over its memory and its device connections.
            release: first release the VM of the previous migration.
            arguments: further arguments of ``migrate-incoming``, when the source is another run.
        """
        if release:
            self._awaited.append(self.monitor.submit("x-release"))
        self._awaited.append(self.monitor.submit("x-create", self._vm_arguments()))
        incoming = {"uri": uri, "handover": handover, **arguments}
        self._awaited.append(self.monitor.submit("migrate-incoming", incoming))

    def await_incoming(self) -> str:
        """Wait until the VM's process listens; returns the URI for the source."""
        answer: JsonObject = {}
        try:
            for request_id in self._awaited:
                answer = self.monitor.result(request_id, timeout=SLOW)
                self.accel = str(answer.get("accel", self.accel))
        except HangUpError:
            raise self._ended() from None
        finally:
            self._awaited.clear()
        return str(answer["uri"])

    def request_log(self) -> tuple[RequestLog, float]:
        """The guest's request log, and the largest gap in its heartbeat in milliseconds."""
        answer = self.execute("x-ledger")
        self.counters_match = bool(answer.get("counters_match", True))
        totals = {name: answer[name] for name in RequestLog._fields if name in answer}
        return RequestLog(**totals), answer.get("guest_gap_ns", 0) / 1e6

    def quiesce(self) -> None:
        """Stop the load and wait until no request is outstanding."""
        self.execute("x-quiesce", {"timeout": QUICK}, timeout=QUICK + 5)

    def verify(self) -> Verified:
        """Let the guest read all blocks back, and read them from the images."""
        images = self._images()
        arguments = {"timeout": SLOW, "images": images}
        answer = self.execute("x-verify", arguments, timeout=SLOW + 5)
        return Verified(int(answer["corrupted"]), all_images=answer["images"] == len(images))

    def shortage(self) -> str:
        """An error text if no space is left for the images or logs, else an empty string."""
        return self._directory.shortage()

    def stop(self) -> None:
        """End the VM's process by closing its monitor, then the back-ends."""
        if self._monitor is not None:
            self._monitor.close()
        if self._program is not None:
            self._watcher.forget(self._program)
            await_end([self._program], QUICK / 5)
            end([self._program])
            self._program = None
        self.backends.stop()

    def _vm_arguments(self) -> JsonObject:
        plan = self._plan
        disk = plan.disk
        return {
            "name": self.name,
            "spec": spec_to_json(plan.spec),
            "accel": plan.accel,
            "costs": plan.costs,
            "load": plan.load,
            "dirty_rate": plan.dirty_rate,
            "backends": self.backends.sockets,
            "disk": None
            if disk is None
            else {"path": str(disk.path), "size": disk.size, "writable": disk.writable},
        }

    def _images(self) -> dict[str, str]:
        """Paths of the scratch images, by disk number."""
        own = self._plan.disk is not None
        return {
            str(device.number): str(self._directory.image(device.name))
            for device in self._plan.spec.devices
            if KINDS[device.device_class].has_image
            and device.device_class not in self._plan.listening
            and not (own and device.number == 0)
        }

    def _ended(self) -> ProgramError:
        if self._program is None:
            return ProgramError(f"VM process {self.name} has not been started")
        return ProgramError(self._program.exit_description())
