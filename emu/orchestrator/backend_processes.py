"""The back-end programs of one side, which are started and ended together."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from backends.durations import format_duration
from backends.stats import StatsReader, served
from emu.config.costs import by_name
from emu.config.device_kinds import KINDS
from emu.errors import ProgramError
from emu.orchestrator.backend_programs import device_files, program_specs
from emu.orchestrator.managed_process import PYTHON, Daemon, ManagedProcess, await_end, end
from vhost_user.unix_socket import is_listening

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from emu.config.backend_commands import BackEndCommand
    from emu.config.plan import MachinePlan
    from emu.orchestrator.backend_programs import ProgramSpec
    from emu.orchestrator.run_directory import RunDirectory
    from emu.orchestrator.signals import SignalWatcher

#: Seconds for the programs to start. Eight that were read from the disk and compiled for the first
#: time took up to 36 s on two CPUs with a load of 39. That a program ends is noticed at once.
READY_TIMEOUT = 60.0
#: Seconds between two looks whether another program's socket listens; there is no event for that.
_LOOK = 0.01


class BackendProcesses:
    """The back-ends of all devices on one side.

    Args:
        side: ``A`` or ``B``.
        plan: the VM.
        directory: where sockets, images and logs go.
        watcher: watches the programs, so that a wait raises when one ends.
    """

    def __init__(
        self, side: str, plan: MachinePlan, directory: RunDirectory, watcher: SignalWatcher
    ) -> None:
        self.side = side
        self._plan = plan
        self._directory = directory
        self._watcher = watcher
        self._programs: list[ManagedProcess] = []
        self._unready: dict[int, ManagedProcess] = {}
        self._silent: list[tuple[ProgramSpec, ManagedProcess]] = []
        self._specs = program_specs(plan, directory)
        self._ours = [spec for spec in self._specs if spec.command is None]
        #: Descriptor of the first NIC's TAP device; set before `start`, and not closed here.
        self.tap_fd: int | None = None

    @property
    def sockets(self) -> dict[str, str]:
        """Path of the socket of each device, by the device's name."""
        paths = {}
        for device in self._plan.spec.devices:
            listening = self._plan.listening.get(device.device_class)
            path = self._directory.socket(self.side, device.name)
            paths[device.name] = (
                str(path) if listening is None else listening[self.side][device.number]
            )
        return paths

    @property
    def uplinks(self) -> list[str]:
        """Paths of the datagram sockets that connect the VM's NICs to the outside."""
        return [
            str(self._directory.uplink(self.side, spec.name))
            for spec in self._ours
            if KINDS[spec.device_class].has_uplink
        ]

    @property
    def pids(self) -> list[int]:
        """The process ids of the programs that have been started."""
        return [program.pid for program in self._programs]

    def start(self) -> None:
        """Start all programs, without waiting for them.

        Raises:
            OSError: one of them cannot be started.
        """
        for spec in self._specs:
            self._start_program(spec)

    def await_ready(self, timeout: float = READY_TIMEOUT) -> None:
        """Return when every socket listens.

        Raises:
            ProgramError: a program ended (with the last line of its stderr), or is late.
        """
        deadline = time.monotonic() + timeout
        self._await_ready_bytes(timeout, deadline)
        for spec, program in self._silent:
            self._await_listening(spec, program, timeout, deadline)
        self._silent.clear()

    def _await_ready_bytes(self, timeout: float, deadline: float) -> None:
        """Our programs write a byte when their sockets listen."""
        while self._unready:
            ready = self._watcher.wait(self._unready, deadline - time.monotonic())
            if not ready:
                late = next(iter(self._unready.values()))
                raise ProgramError(
                    f"{late.title} is not ready after {timeout:g} s: {late.running_description()}"
                )
            for fd in ready:
                program = self._unready.pop(fd)
                ready_byte = os.read(fd, 1)
                os.close(fd)
                if not ready_byte:  # the program has closed its end, as it ends
                    raise ProgramError(program.exit_description())

    def _await_listening(
        self, spec: ProgramSpec, program: ManagedProcess, timeout: float, deadline: float
    ) -> None:
        """Other programs are ready when all their sockets listen."""
        assert spec.command is not None  # noqa: S101  the others write a byte
        if spec.command.daemonizes:
            program = self._await_daemon(spec, program, timeout, deadline)
        for device in spec.devices:
            path = str(self._directory.socket(self.side, device.name))
            if not self._look_until(partial(is_listening, path), deadline):
                raise ProgramError(
                    f"{program.title} does not listen on the socket of {device.name} after "
                    f"{timeout:g} s: {program.running_description()}"
                )

    def _await_daemon(
        self, spec: ProgramSpec, program: ManagedProcess, timeout: float, deadline: float
    ) -> ManagedProcess:
        """Wait until a program has gone to the background; from then on it is the daemon.

        A program that stays in the foreground although it writes its process id is itself.
        """

        def written() -> bool:
            if self._has_pid(spec):
                return True
            if await_end([program], 0.0) and not program.succeeded:
                raise ProgramError(program.exit_description())
            return False

        if not self._look_until(written, deadline):
            raise ProgramError(
                f"{program.title} has written no process id to its {{pid_file}} after "
                f"{timeout:g} s: {program.running_description()}"
            )
        daemon = self._daemon(spec, program)
        if daemon is None:
            self._watcher.watch(program)
            return program
        self._programs.append(daemon)
        self._watcher.watch(daemon)
        return daemon

    def _has_pid(self, spec: ProgramSpec) -> bool:
        try:
            return bool(self._pid_file(spec).read_bytes().strip())
        except FileNotFoundError:
            return False
        except OSError:
            return True  # `_daemon` reports it

    def _daemon(self, spec: ProgramSpec, program: ManagedProcess) -> Daemon | None:
        """The process of which a program has written the id; None if that is its own.

        Raises:
            ProgramError: the file has no id of a process.
        """
        try:
            pid = int(self._pid_file(spec).read_bytes())
            if pid == program.pid:
                return None
            return Daemon(program.title, pid, self._directory.log(self.side, spec.name))
        except (ValueError, OverflowError, OSError) as error:
            raise ProgramError(f"{program.title}: its process id file: {error}") from None

    def _look_until(self, found: Callable[[], bool], deadline: float) -> bool:
        """Whether this comes to hold in time.

        The last look is after the deadline: this process may have been stopped until then.
        """
        late = False
        while not found():
            if late:
                return False
            self._watcher.wait((), _LOOK)
            late = time.monotonic() > deadline
        return True

    def served(self) -> int:
        """Requests that the disks' back-ends have completed since they were started."""
        return served(self.disk_stats)

    @property
    def disk_stats(self) -> list[str]:
        """Paths of the counters of the programs whose requests the guest's log counts, too."""
        kinds = [name for name, kind in KINDS.items() if "requests" in kind.counters]
        names = [spec.name for spec in self._ours if spec.device_class in kinds]
        return [str(self._directory.stats(self.side, name)) for name in names]

    def totals(self) -> dict[str, dict[str, int]]:
        """The counters of all programs, summed up by class of devices."""
        result: dict[str, dict[str, int]] = {}
        for spec in self._ours:
            reader = StatsReader(str(self._directory.stats(self.side, spec.name)))
            of_class = result.setdefault(spec.device_class, {})
            for name, value in reader.totals().items():
                of_class[name] = of_class.get(name, 0) + value
            reader.close()
        return result

    def stop(self) -> None:
        """End all programs and remove their sockets."""
        for program in self._programs:
            self._watcher.forget(program)
        end(self._programs)
        end(self._unknown_daemons())
        self._programs.clear()
        for fd in self._unready:
            os.close(fd)
        self._unready.clear()
        self._silent.clear()
        for uplink in self.uplinks:
            Path(uplink).unlink(missing_ok=True)
        for path in self._own_sockets():
            path.unlink(missing_ok=True)

    def _unknown_daemons(self) -> list[Daemon]:
        """Programs in the background that were not awaited, as another one has failed before."""
        found = []
        for spec, program in self._silent:
            if spec.command is not None and spec.command.daemonizes and self._has_pid(spec):
                # A file without an id names no process to end.
                with suppress(ProgramError):
                    daemon = self._daemon(spec, program)
                    if daemon is None:
                        continue
                    if daemon.pid in self.pids:
                        daemon.reap()  # it is known
                    else:
                        found.append(daemon)
        return found

    def _own_sockets(self) -> Iterable[Path]:
        """The sockets of the programs that were started here."""
        for spec in self._specs:
            for device in spec.devices:
                yield self._directory.socket(self.side, device.name)

    def _start_other(self, spec: ProgramSpec, command: BackEndCommand) -> None:
        """Start a program that does not tell when it is ready."""
        files = device_files(self._plan, self.side, spec.devices, self._directory)
        argv = command.argv(files, side=self.side, pid_file=str(self._pid_file(spec)))
        try:
            program = ManagedProcess(
                f"back-end {spec.name} of side {self.side} ({command.name})",
                argv,
                log=self._directory.log(self.side, spec.name),
                open_stdin=True,
                whole_group=True,
                advice=""
                if command.daemonizes
                else "one that goes to the background has to write its process id to {pid_file}",
            )
        except OSError as error:
            raise ProgramError(
                f"--{spec.device_class}-backend {argv[0]}: {error.strerror}"
            ) from None
        self._programs.append(program)
        self._silent.append((spec, program))
        if not command.daemonizes:
            self._watcher.watch(program)

    def _pid_file(self, spec: ProgramSpec) -> Path:
        return self._directory.path / f"{self.side}-{spec.name}.pid"

    def _start_program(self, spec: ProgramSpec) -> None:
        if spec.command is not None:
            self._start_other(spec, spec.command)
            return
        read_end, write_end = os.pipe2(os.O_CLOEXEC)
        tap = None if spec.name != "net-0" else self.tap_fd
        try:
            program = ManagedProcess(
                f"back-end {spec.name} of side {self.side}",
                self._argv(spec, write_end) + ([] if tap is None else ["--tap-fd", str(tap)]),
                log=self._directory.log(self.side, spec.name),
                pass_fds=(write_end,) if tap is None else (write_end, tap),
            )
        except OSError:
            os.close(read_end)
            raise
        finally:
            os.close(write_end)
        self._programs.append(program)
        self._unready[read_end] = program
        self._watcher.watch(program)

    def _argv(self, spec: ProgramSpec, ready_fd: int) -> list[str]:
        plan, kind = self._plan, KINDS[spec.device_class]
        argv = [*PYTHON, "-m", kind.back_end, "--ready-fd", str(ready_fd)]
        argv += ["--num-queues", str(spec.devices[0].rings), "--control", plan.control]
        argv += ["--stop-policy", plan.stop_policy]
        argv += ["--stats-file", str(self._directory.stats(self.side, spec.name))]
        if plan.stop_time:
            argv += ["--stop-time", format_duration(plan.stop_time)]
        for option, value in by_name(plan.costs).backend_options(spec.device_class).items():
            argv += [option, str(value)]
        for device in spec.devices:
            argv += ["--socket-path", str(self._directory.socket(self.side, device.name))]
        if kind.has_uplink:
            argv += ["--uplink", str(self._directory.uplink(self.side, spec.name))]
        return [*argv, *spec.arguments]
