"""The back-end programs of one side, which are started and ended together."""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from backends.durations import format_duration
from backends.stats import StatsReader, served
from emu.config.costs import by_name
from emu.config.device_kinds import KINDS
from emu.errors import ProgramError
from emu.orchestrator.managed_process import PYTHON, ManagedProcess, end

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emu.config.plan import MachinePlan
    from emu.config.vm_spec import DeviceSpec
    from emu.orchestrator.run_directory import RunDirectory
    from emu.orchestrator.signals import SignalWatcher

#: The devices of a class are distributed to this many programs.
PROGRAMS = 2
READY_TIMEOUT = 30.0


class ProgramSpec(NamedTuple):
    """One program to start.

    Attributes:
        name: in errors and file names.
        device_class: of all its devices.
        devices: that it serves.
        arguments: further options, such as the disk images.
    """

    name: str
    device_class: str
    devices: tuple[DeviceSpec, ...]
    arguments: tuple[str, ...] = ()


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
        self._specs = program_specs(plan, directory)
        #: Descriptor of the first NIC's TAP device; set before `start`, and not closed here.
        self.tap_fd: int | None = None

    @property
    def sockets(self) -> dict[str, str]:
        """Path of the socket of each device, by the device's name."""
        names = [device.name for device in self._plan.spec.devices]
        return {name: str(self._directory.socket(self.side, name)) for name in names}

    @property
    def uplinks(self) -> list[str]:
        """Paths of the datagram sockets that connect the VM's NICs to the outside."""
        return [
            str(self._directory.uplink(self.side, spec.name))
            for spec in self._specs
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
        while self._unready:
            ready = self._watcher.wait(self._unready, deadline - time.monotonic())
            if not ready:
                late = next(iter(self._unready.values()))
                raise ProgramError(f"{late.title} was not ready within {timeout:g} s")
            for fd in ready:
                program = self._unready.pop(fd)
                ready_byte = os.read(fd, 1)
                os.close(fd)
                if not ready_byte:  # the program has closed its end, as it ends
                    raise ProgramError(program.exit_description())

    def served(self) -> int:
        """Requests that the disks' back-ends have completed since they were started."""
        return served(self.disk_stats)

    @property
    def disk_stats(self) -> list[str]:
        """Paths of the counters of the programs whose requests the guest's log counts, too."""
        kinds = [name for name, kind in KINDS.items() if "requests" in kind.counters]
        names = [spec.name for spec in self._specs if spec.device_class in kinds]
        return [str(self._directory.stats(self.side, name)) for name in names]

    def totals(self) -> dict[str, dict[str, int]]:
        """The counters of all programs, summed up by class of devices."""
        result: dict[str, dict[str, int]] = {}
        for spec in self._specs:
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
        self._programs.clear()
        for fd in self._unready:
            os.close(fd)
        self._unready.clear()
        for path in (*self.sockets.values(), *self.uplinks):
            Path(path).unlink(missing_ok=True)

    def _start_program(self, spec: ProgramSpec) -> None:
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


def program_specs(plan: MachinePlan, directory: RunDirectory) -> list[ProgramSpec]:
    """The programs that serve the devices of a VM: up to two for each kind.

    A disk that the guest may only read is served by a program of its own, because ``--read-only``
    holds for a whole program.
    """
    specs = []
    for name, kind in KINDS.items():
        devices = [device for device in plan.spec.devices if device.device_class == name]
        if kind.has_image and plan.disk is not None and not plan.disk.writable:
            first = devices.pop(0)
            arguments = ("--read-only", "--blk-file", str(plan.disk.path))
            specs.append(ProgramSpec(f"{name}-ro", name, (first,), arguments))
        for number, part in enumerate(_split(devices, PROGRAMS)):
            images = _images(plan, part, directory) if kind.has_image else ()
            specs.append(ProgramSpec(f"{name}-{number}", name, tuple(part), images))
    return specs


def _images(
    plan: MachinePlan, disks: Sequence[DeviceSpec], directory: RunDirectory
) -> tuple[str, ...]:
    arguments: list[str] = []
    for device in disks:
        if plan.disk is not None and device.number == 0:
            image = plan.disk.path
        else:
            image = directory.image(device.name)
        arguments += ["--blk-file", str(image)]
    return tuple(arguments)


def _split(devices: list[DeviceSpec], parts: int) -> list[list[DeviceSpec]]:
    """The devices in up to ``parts`` groups of nearly the same size, none of them empty."""
    count = min(parts, len(devices))
    bounds = [len(devices) * n // count for n in range(count + 1)] if count else [0]
    return [devices[first:last] for first, last in itertools.pairwise(bounds)]
