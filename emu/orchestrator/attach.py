"""A VM on back-ends that the user has started, in this process: `emu attach`."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

from emu.config import vm_file
from emu.errors import EmuError
from emu.orchestrator.attach_probe import usable_rings
from emu.qmp.listener import MonitorListener
from emu.vm_process.commands import commands
from emu.vm_process.control import make_control
from vhost_user.channel import check_path
from vhost_user.features import SPEC
from vhost_user_conformance.back_end.connection import BackEnd
from vhost_user_conformance.back_end.disk_contents import CapacityError, check_zeroes
from vhost_user_conformance.errors import PeerError
from vhost_user_conformance.peer.program import connect
from vhost_user_conformance.peer.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from emu.config.vm_spec import VmSpec
    from emu.guest.request_log import RequestLog
    from emu.orchestrator.signals import SignalWatcher
    from emu.qmp.protocol import JsonObject

#: Commands that only the run of a VM process sends to it.
_INTERNAL = {"x-create", "x-start", "x-release", "migrate-incoming"}
#: Seconds for a back-end to listen, and for each answer while its disk is read.
_CONNECT = 10.0
#: Seconds between two signs of life while the VM starts; its devices have deadlines of their own.
_LOOK = 60.0


class AttachPlan(NamedTuple):
    """What `emu attach` is asked for.

    Attributes:
        spec: shape of the VM; without ``rings_given`` the number of rings is a placeholder.
        backends: socket path of each device's back-end, by the device's name.
        accel: ``auto``, ``soft`` or ``kvm``.
        load: ``none``, ``light`` or ``heavy``.
        monitor: where its monitor listens, or None for none.
        scratch: the contents of the disks may be overwritten. Without it a disk that the guest
            writes to must be all zeroes.
        rings_given: the devices have as many rings as ``spec`` has, not as the back-ends offer.
    """

    spec: VmSpec
    backends: Mapping[str, str]
    accel: str
    load: str
    monitor: Path | None
    scratch: bool = False
    rings_given: bool = True

    def spec_on(self, notice: Callable[[str], None]) -> VmSpec:
        """The VM's shape, with the rings that the back-ends offer if none were given.

        Args:
            notice: called with a line when a back-end does not listen yet.

        Raises:
            EmuError, VhostUserError: a back-end is not there, or is not what the VM needs.
        """
        if self.rings_given:
            return self.spec
        groups = []
        for group in self.spec.groups:
            names = [f"{group.device_class}{number}" for number in range(group.count)]
            paths = [self.backends[name] for name in names]
            rings = usable_rings(group.device_class, paths, notice)
            groups.append(dataclasses.replace(group, rings=rings))
        return dataclasses.replace(self.spec, groups=tuple(groups))


class AttachedVm:
    """The VM and its monitor. A context manager: at its end the devices are stopped, too.

    Args:
        plan: which VM.
        notice: is told, a line each, of devices that lose their back-end and that have one again.

    Attributes:
        accel: ``soft`` or ``kvm``, once the VM has started.

    Raises:
        EmuError, OSError: there can be no such VM, or no such monitor.
    """

    def __init__(self, plan: AttachPlan, notice: Callable[[str], None]) -> None:
        self._plan = plan
        self._notice = notice
        self._monitor: MonitorListener | None = None
        self._starter: threading.Thread | None = None
        self._control = make_control(self._emit)
        self.accel = ""
        if plan.monitor is not None:
            offered = {
                name: handler
                for name, handler in commands(self._control).items()
                if name not in _INTERNAL
            }
            # It listens before the VM starts: who knows of the VM by its devices can connect.
            self._monitor = MonitorListener(plan.monitor, offered)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        if self._monitor is not None:
            self._monitor.close()
        if self._starter is not None and self._starter.is_alive():
            return  # it waits for a back-end, and ends with the process
        with contextlib.suppress(Exception):  # the user wants this to end, whatever a device says
            self._control.stop()
        self._control.close()

    def start(self, watcher: SignalWatcher) -> None:
        """Connect the devices and boot.

        Raises:
            SignalError: the user wants this to end; a back-end may never answer.
            VhostUserError: a back-end is not there, or is not what the VM needs.
            EmuError: a disk holds data, and the plan does not allow it to be overwritten.
        """
        ended = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        failures: list[BaseException] = []

        def boot() -> None:
            try:
                self._create()
                self._check_disks()
                self._control.start()
            except BaseException as error:  # noqa: BLE001  raised below
                failures.append(error)
            os.eventfd_write(ended, 1)

        self._starter = threading.Thread(target=boot, name="boot", daemon=True)
        self._starter.start()
        while not watcher.wait((ended,), _LOOK):
            pass
        self._starter.join()
        os.close(ended)
        for failure in failures:
            raise failure
        if self._monitor is not None:
            self._monitor.start()

    def _check_disks(self) -> None:
        """Read each disk on a connection of its own, which ends before the VM connects."""
        plan = self._plan
        if plan.scratch or plan.load == "none":
            return  # the guest writes nothing without a load
        for device in plan.spec.devices:
            if device.device_class == "blk":
                _check_zeroes(device.name, Path(plan.backends[device.name]))

    def _create(self) -> None:
        plan = self._plan
        created = self._control.create(
            name="A",
            spec=vm_file.spec_to_json(plan.spec_on(self._notice)),
            accel=plan.accel,
            costs="native",
            load=plan.load,
            backends=dict(plan.backends),
        )
        self.accel = str(created["accel"])

    def run(self, watcher: SignalWatcher, seconds: float | None) -> None:
        """Return when the time is over, or when a client of the monitor has said ``quit``.

        Raises:
            SignalError: the user wants this to end.
        """
        fds = () if self._monitor is None else (self._monitor.over_fd,)
        while not watcher.wait(fds, _LOOK if seconds is None else seconds):
            if seconds is not None:
                return
        if self._monitor is not None and self._monitor.failure is not None:
            raise self._monitor.failure

    def stats(self) -> JsonObject:
        """See `emu.vm_process.commands.VmControl.stats`."""
        return self._control.stats()

    def check(self) -> None:
        """Return if all is well: each device has a back-end, and each request its answer.

        Raises:
            EmuError: it is not; the text says what.
        """
        lost = self._control.vm.reconnect.lost
        if lost:
            raise EmuError("; ".join(map(str, lost.values())))
        log = self._control.vm.guest.request_log()
        if not log.intact:
            raise EmuError(_complaint(log))

    def _emit(self, name: str, data: JsonObject) -> None:
        if self._monitor is not None:
            self._monitor.emit(name, data)
        if name == "DEVICE_LOST":
            self._notice(str(data["reason"]))
        elif name == "DEVICE_BACK":
            self._notice(f"{data['device']}: has a back-end again")


def _check_zeroes(name: str, path: Path) -> None:
    """Raises `EmuError` if the disk of this back-end holds data, or may hold data."""
    check_path(str(path), name)
    try:
        wire = Wire(connect(path, timeout=_CONNECT, gone=str), {}, _CONNECT)
        with contextlib.closing(BackEnd(wire, "blk", SPEC)) as back_end:
            check_zeroes(back_end)
    except CapacityError:
        return  # the VM refuses it, too, and says what the back-end lacks
    except PeerError as error:
        raise EmuError(f"{name}: {error}") from None


def _complaint(log: RequestLog) -> str:
    counters = ("lost", "duplicated", "corrupted", "errors", "packets_duplicated")
    found = [(getattr(log, name), name) for name in (*counters, "packets_reordered")]
    what = ", ".join(f"{count} {name.replace('_', ' ')}" for count, name in found if count)
    return f"of {log.requests} requests and {log.packets_sent} packets: {what}"
