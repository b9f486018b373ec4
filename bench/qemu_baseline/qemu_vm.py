"""QEMU's side of the control run: a VM whose guest is `guest.c`, on the same back-ends."""

from __future__ import annotations

import platform
import re
import shutil
import socket
import subprocess
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from bench import bare_metal
from bench.qemu_baseline import guest_board
from bench.qemu_baseline.guest_board import GuestBoard
from bench.qemu_baseline.guest_memory import MemoryPage
from bench.qemu_baseline.measurement import (
    STOP_TIMEOUT,
    MigrationFigures,
    StopFigures,
    gap_of_migration,
    look_until,
    stop_and_cont,
)
from emu.config.plan import MachinePlan
from emu.config.vm_spec import VmSpec
from emu.errors import EmuError, HangUpError, OptionError, ProgramError, SignalError
from emu.orchestrator.backend_processes import BackendProcesses
from emu.orchestrator.managed_process import ManagedProcess, end
from emu.orchestrator.run_directory import SIDES, RunDirectory
from emu.orchestrator.signals import SignalWatcher
from emu.qmp.client import MonitorClient

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import TracebackType

    from emu.qmp.protocol import JsonObject

PROGRAM = "qemu-system-x86_64"
PACKAGE = "qemu-system-x86"
SOURCE = Path(__file__).with_name("guest.c")
#: The one strategy of QEMU's migrations.
STRATEGY = "qemu"
#: Slots of PCI bus 0 that are free on q35, and functions of a slot.
_FIRST_SLOT, _SLOTS, _FUNCTIONS = 1, 30, 8
MAX_DEVICES = _SLOTS * _FUNCTIONS
#: The numbers of local APICs that do not use x2APIC.
MAX_VCPUS = 255
#: Seconds: QEMU connects to all back-ends before it answers, and the guest sets up all rings.
START_TIMEOUT = 60.0
BOOT_TIMEOUT = 60.0
MIGRATE_TIMEOUT = 120.0
_VERSION_TIMEOUT = 20.0
_LEAST_MEMORY = 64 << 20
#: The states of a migration that has ended.
_ENDED = ("completed", "failed", "cancelled")
#: What QEMU prints when it uses a NIC without its back-end.
_FALLBACK = "falling back on userspace virtio"
#: The name of the memfd of QEMU's memory-backend-memfd.
_MEMFD = "memory-backend-memfd"


@dataclass(frozen=True)
class Qemu:
    """An installed QEMU that runs the guest.

    Attributes:
        command: starts it.
        version: such as ``7.2.22``.
        guest: path of the guest.
        accel: ``kvm`` or ``tcg``.
        rejected: a line for each accelerator that was tried before, with the reason.
    """

    command: tuple[str, ...]
    version: str
    guest: Path
    accel: str
    rejected: tuple[str, ...] = ()

    def argv(
        self,
        spec: VmSpec,
        sockets: Mapping[str, str],
        *,
        qmp_fd: int,
        incoming: str = "",
    ) -> list[str]:
        """The command of a VM.

        Args:
            spec: its vCPUs, memory and devices.
            sockets: of the back-ends, by the device's name.
            qmp_fd: a connected socket for its monitor.
            incoming: the URI of the migration that it waits for; empty to boot.
        """
        memory = f"{spec.memory_bytes >> 20}M"
        return [
            *(*self.command, "-nodefaults", "-no-user-config", "-display", "none"),
            *("-accel", self.accel, "-m", memory, "-smp", str(spec.vcpus)),
            *("-object", f"memory-backend-memfd,id=memory,size={memory},share=on"),
            *("-machine", "q35,memory-backend=memory", "-no-reboot"),
            *("-bios", "qboot.rom", "-kernel", str(self.guest)),
            *("-chardev", f"socket,id=qmp,fd={qmp_fd}", "-mon", "chardev=qmp,mode=control"),
            *(word for words in self._devices(spec, sockets) for word in words),
            *(("-incoming", incoming) if incoming else ()),
        ]

    def _devices(self, spec: VmSpec, sockets: Mapping[str, str]) -> Iterator[tuple[str, ...]]:
        for number, device in enumerate(spec.devices):
            slot, function = divmod(number, _FUNCTIONS)
            place = f"addr={_FIRST_SLOT + slot:x}.{function},multifunction=on"
            name = device.name
            yield "-chardev", f"socket,id={name},path={sockets[name]}"
            if device.device_class == "blk":
                # It has a vector for each ring, and one for its configuration, by default.
                disk = f"vhost-user-blk-pci,chardev={name},num-queues={device.rings}"
                yield "-device", f"{disk},{place}"
                continue
            pairs = device.rings // 2
            yield "-netdev", f"vhost-user,id=net-{name},chardev={name},queues={pairs}"
            # The vectors are those of the rings, of the control queue and of the configuration.
            # QEMU 7.2 aborts with TCG, MSI-X and a NIC of vhost-user.
            vectors = device.rings + 2 if self.accel == "kvm" else 0
            nic = f"virtio-net-pci,netdev=net-{name},mq=on,vectors={vectors}"
            yield "-device", f"{nic},disable-legacy=on,romfile=,{place}"


def missing(command: Sequence[str]) -> str:
    """Why there is no QEMU here that could be measured, or an empty string.

    Args:
        command: of QEMU.
    """
    if platform.machine() != "x86_64":
        return f"the guest is x86-64 code, and this host is {platform.machine()}"
    if shutil.which(command[0]) is None:
        return f"{command[0]} is not installed (Debian: apt-get install {PACKAGE})"
    return ""


def check_shape(spec: VmSpec) -> None:
    """Check that QEMU and its guest have room for the vCPUs and devices.

    Raises:
        OptionError: they have not.
    """
    if spec.vcpus > MAX_VCPUS:
        raise OptionError(f"{spec.vcpus} vCPUs: the guest in QEMU starts {MAX_VCPUS} at most")
    if len(spec.devices) > MAX_DEVICES:
        raise OptionError(f"{len(spec.devices)} devices: QEMU's bus has room for {MAX_DEVICES}")


def find(command: Sequence[str], accel: str, folder: Path, watcher: SignalWatcher) -> Qemu:
    """An installed QEMU, with the guest compiled for it.

    Args:
        command: of QEMU.
        accel: ``kvm``, ``tcg``, or ``auto``: KVM if the guest runs with it, else TCG.
        folder: for the guest.
        watcher: interrupts the wait for a first guest.

    Raises:
        EmuError: QEMU cannot be run, the guest cannot be compiled, or does not run.
    """
    version = _version(command)
    guest = _build(folder)
    names = ("kvm", "tcg") if accel == "auto" else (accel,)
    failures: list[str] = []
    for name in names:
        qemu = Qemu(tuple(command), version, guest, name, tuple(failures))
        try:
            _try(qemu, watcher)
        except SignalError:
            raise
        except EmuError as error:
            failures.append(f"QEMU does not run the guest with {name}: {error}")
        else:
            return qemu
    raise EmuError("; ".join(failures))


def _build(folder: Path) -> Path:
    try:
        return bare_metal.build(SOURCE, folder)
    except OSError as error:
        raise EmuError(f"the guest cannot be compiled: {error}") from error
    except subprocess.TimeoutExpired as error:
        raise EmuError(f"the guest is not compiled after {error.timeout:g} s") from error
    except subprocess.CalledProcessError as error:
        lines = error.stderr.decode(errors="replace").strip().splitlines()
        raise EmuError(f"the guest cannot be compiled: {(lines or [''])[0]}") from error


def _version(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(
            [*command, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_VERSION_TIMEOUT,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise EmuError(f"the version of {command[0]} cannot be read: {error}") from error
    found = re.search(r"\d+(?:\.\d+)+", done.stdout)
    return found[0] if found else "of an unknown version"


def _try(qemu: Qemu, watcher: SignalWatcher) -> None:
    """Run the guest once, without devices.

    Raises:
        EmuError: it does not run.
    """
    with RunDirectory() as directory, ExitStack() as stack:
        side = QemuSide("A", qemu, MachinePlan(VmSpec(1, _LEAST_MEMORY, ())), directory, watcher)
        stack.callback(side.stop)
        side.start()
        side.await_guest()


class QemuSide:
    """A QEMU with the back-ends of its devices.

    Args:
        name: ``A`` or ``B``.
        qemu: the program.
        plan: the VM and its back-ends.
        directory: for sockets, images and logs.
        watcher: interrupts the waits.
    """

    def __init__(
        self,
        name: str,
        qemu: Qemu,
        plan: MachinePlan,
        directory: RunDirectory,
        watcher: SignalWatcher,
    ) -> None:
        self._name = name
        self._qemu = qemu
        self._spec = plan.spec
        self._watcher = watcher
        self._log = directory.log(name, "qemu")
        self._backends = BackendProcesses(name, plan, directory, watcher)
        self._stack = ExitStack()
        self._stack.callback(self._backends.stop)

    def start(self, incoming: str = "") -> None:
        """Start the back-ends and QEMU.

        Args:
            incoming: see `Qemu.argv`.

        Raises:
            EmuError: a program ended, or is not ready in time.
        """
        self._backends.start()
        self._backends.await_ready()
        ours, theirs = socket.socketpair()
        with theirs:
            self._monitor = MonitorClient(ours, f"QEMU {self._name}", self._watcher)
            self._stack.callback(self._monitor.close)
            argv = self._qemu.argv(
                self._spec, self._backends.sockets, qmp_fd=theirs.fileno(), incoming=incoming
            )
            self._program = ManagedProcess(
                f"QEMU {self._name}", argv, log=self._log, pass_fds=(theirs.fileno(),)
            )
        self._stack.callback(end, [self._program])
        self._stack.callback(self._watcher.forget, self._program)
        self._watcher.watch(self._program)
        try:
            self._monitor.negotiate(START_TIMEOUT)
        except HangUpError:
            raise ProgramError(self._program.exit_description()) from None
        self._board = GuestBoard(MemoryPage(self._program.pid, _MEMFD, guest_board.ADDRESS))
        self._enable("events")

    def _enable(self, capability: str) -> None:
        state = [{"capability": capability, "state": True}]
        self.execute("migrate-set-capabilities", {"capabilities": state})

    @property
    def beats(self) -> memoryview:
        """See `Side.beats`."""
        return self._board.beats

    def execute(
        self, command: str, arguments: JsonObject | None = None, timeout: float = STOP_TIMEOUT
    ) -> JsonObject:
        """Execute a QMP command.

        Raises:
            EmuError: it failed, was not answered in time, or QEMU has ended.
        """
        try:
            return self._monitor.execute(command, arguments, timeout=timeout)
        except HangUpError:
            raise ProgramError(self._program.exit_description()) from None

    def await_guest(self) -> None:
        """Return when all vCPUs are started, and each ring is set up and has completed a request.

        Raises:
            EmuError: that takes too long, the guest has failed, or QEMU does not use a back-end.
        """
        spec = self._spec
        wanted = spec.vcpus, len(spec.devices), spec.rings
        what = "{} vCPUs, {} devices and {} rings".format(*wanted)
        look_until(
            lambda: self._board.status().ready and self._board.status().counts == wanted,
            f"the guest of QEMU {self._name} to start {what}",
            BOOT_TIMEOUT,
            self._watcher,
        )
        self.check_back_ends()

    def check_rings(self) -> None:
        """Have the guest use all rings that complete requests.

        Raises:
            EmuError: some requests are not completed in time.
        """
        self._board.ask()
        look_until(
            lambda: self._board.answered, "requests of the guest", BOOT_TIMEOUT, self._watcher
        )
        self.check_back_ends()

    def check_back_ends(self) -> None:
        """Check that QEMU uses all back-ends: it can serve a NIC without.

        Raises:
            EmuError: it does not use one.
        """
        for line in self._log.read_text(errors="replace").splitlines():
            if _FALLBACK in line:
                raise EmuError(f"QEMU {self._name} does not use a back-end: {line.strip()}")

    def migrate(self, uri: str) -> None:
        """Migrate to a QEMU that waits there; return when that has completed.

        Raises:
            EmuError: it failed, or has not completed in time.
        """
        self._monitor.events.clear()
        self.execute("migrate", {"uri": uri})
        status = ""
        deadline = time.monotonic() + MIGRATE_TIMEOUT
        while status not in _ENDED:
            left = deadline - time.monotonic()
            if left <= 0:
                raise EmuError(f"QEMU's migration has not completed in {MIGRATE_TIMEOUT:g} s")
            self._watcher.wait([self._monitor.fileno()], left)
            status = self._migration_status() or status
        if status != "completed":
            found = self.execute("query-migrate")
            raise EmuError(f"QEMU's migration has {status}: {found.get('error-desc', 'no reason')}")

    def _migration_status(self) -> str:
        """What the last event since the last call says; empty if there was none."""
        status = ""
        try:
            self._monitor.receive()
        except HangUpError:
            raise ProgramError(self._program.exit_description()) from None
        events = self._monitor.events
        while events:
            event = events.popleft()
            if event.name == "MIGRATION":
                status = str(event.data.get("status"))
        return status

    def stop(self) -> None:
        """End all programs."""
        self._stack.close()


class QemuVm:
    """The VM in QEMU, as `MeasuredVm`.

    Args:
        qemu: the program.
        plan: the VM and its back-ends.
    """

    def __init__(self, qemu: Qemu, plan: MachinePlan) -> None:
        self._qemu = qemu
        self._plan = plan
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._watcher = stack.enter_context(SignalWatcher())
            self._directory = stack.enter_context(RunDirectory())
            self._sides = [
                QemuSide(name, self._qemu, self._plan, self._directory, self._watcher)
                for name in SIDES
            ]
            for side in self._sides:
                stack.callback(side.stop)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()
        if error is None:
            self._watcher.raise_signal()

    def boot(self) -> None:
        """See `MeasuredVm.boot`."""
        self._sides[0].start()
        self._sides[0].await_guest()

    def stop_and_cont(self) -> StopFigures:
        """See `MeasuredVm.stop_and_cont`."""
        figures = stop_and_cont(self._sides[0], self._watcher)
        self._sides[0].check_rings()
        return figures

    def migrate(self) -> dict[str, MigrationFigures]:
        """See `MeasuredVm.migrate`."""
        source, destination = self._sides
        uri = f"unix:{self._directory.stream(1)}"
        destination.start(uri)
        gap = gap_of_migration(source, destination, lambda: source.migrate(uri), self._watcher)
        destination.check_rings()
        downtime = float(source.execute("query-migrate")["downtime"])
        return {STRATEGY: MigrationFigures(gap, downtime)}
