"""A VM on back-ends that the user has started, in this process: `emu attach`."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from typing import TYPE_CHECKING, NamedTuple, Self

from devices.blk import VhostUserBlk
from emu.config.costs import NATIVE
from emu.errors import EmuError, MigrationError, Operation
from emu.migration.endpoint import DEFER
from emu.orchestrator.attach_connect import TIMEOUT, connect, with_offered_rings
from emu.orchestrator.attach_disk import check_zeroes
from emu.orchestrator.stalls import StallDetector
from emu.vm.vm import Vm
from emu.vm_process.control import Control
from emu.vm_process.monitor import Monitor
from vhost_user.virtio.blk import VIRTIO_BLK_F_RO

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from devices.device import VhostDevice
    from emu.config.vm_spec import VmSpec
    from emu.guest.request_log import RequestLog
    from emu.orchestrator.signals import SignalWatcher
    from emu.qmp.listener import MonitorListener
    from emu.qmp.protocol import JsonObject

#: Seconds of one wait, which is repeated; connecting and booting have timeouts of their own.
_WAIT = 60.0
#: Seconds after the end of the run in which a device may still complete its first request, and from
#: one look to the next.
_GRACE, _LOOK = 0.5, 0.005


class AttachPlan(NamedTuple):
    """The options of `emu attach`.

    Attributes:
        spec: vCPUs, memory and devices of the VM.
        backends: socket path of each device's back-end, by the device's name.
        accel: ``auto``, ``soft`` or ``kvm``.
        load: ``none``, ``light`` or ``heavy``.
        monitor: socket path of its monitor, or None.
        incoming: wait for a VM at this URI, or with `DEFER` for migrate-incoming, instead of
            booting one.
        scratch: the contents of the disks may be overwritten. Without it a disk that the guest
            writes to must be all zeroes.
        rings_given: the number of rings is that of ``spec``; otherwise it depends on the back-ends'
            offer, and ``spec`` has as many as the guest needs.
    """

    spec: VmSpec
    backends: Mapping[str, str]
    accel: str
    load: str
    monitor: Path | None
    scratch: bool = False
    rings_given: bool = True
    incoming: str | None = None


class AttachedVm:
    """The VM and its monitor, as a context manager: its exit stops the devices and closes both.

    Args:
        plan: the options.
        notice: called with a line of text when a device loses its back-end or is reconnected.
        waiting: called with a line of text when a back-end does not listen yet.

    Attributes:
        accel: ``soft`` or ``kvm``, once the VM has started.

    Raises:
        EmuError, OSError: the monitor's socket cannot be created.
    """

    def __init__(
        self,
        plan: AttachPlan,
        notice: Callable[[str], None],
        waiting: Callable[[str], None],
    ) -> None:
        self._plan = plan
        self._notice = notice
        self._waiting = waiting
        self._listener: MonitorListener | None = None
        self._starter: threading.Thread | None = None
        self._stalls: StallDetector | None = None
        self._quit = self._arrived = False
        self._control = Control(self._emit)
        self.accel = ""
        self._monitor = Monitor(self._control)
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._failure = ""
        if plan.monitor is not None:
            # It listens before the VM starts: a client that waits for the back-ends' connections
            # can connect at once.
            self._listener = self._monitor.listen(plan.monitor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        if self._ended():
            os.close(self._wake_fd)

    def _ended(self) -> bool:
        """Disconnect the clients, stop the devices and close the VM; False if a thread uses it."""
        if self._listener is not None:
            if not self._quit:
                self._listener.emit("SHUTDOWN", {"guest": False, "reason": "host-signal"})
            if not self._listener.close():
                return False  # a client's command hangs; its thread ends with the process
        if self._starter is not None and self._starter.is_alive():
            return False  # the thread waits for a back-end; it ends with the process
        with contextlib.suppress(Exception):  # the command ends, whatever error a device reports
            self._control.stop()
        self._control.close()
        return True

    def start(self, watcher: SignalWatcher) -> None:
        """Connect the devices and boot.

        Raises:
            SignalError: a signal ends the command, also while a back-end does not answer.
            VhostUserError: a back-end does not listen, or lacks a feature that the VM needs.
            EmuError: a disk holds data, and the plan does not allow it to be overwritten.
        """
        ended = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        failures: list[BaseException] = []

        def boot() -> None:
            try:
                self._boot()
            except BaseException as error:  # noqa: BLE001  raised below
                failures.append(error)
            os.eventfd_write(ended, 1)

        self._starter = threading.Thread(target=boot, name="boot", daemon=True)
        self._starter.start()
        while not watcher.wait((ended,), _WAIT):
            pass
        self._starter.join()
        os.close(ended)
        for failure in failures:
            raise failure
        if self._listener is not None:
            self._listener.start()

    def _boot(self) -> None:
        """Connect the back-ends, create the VM with the rings that they offer, and boot it."""
        plan = self._plan
        with contextlib.ExitStack() as connected:
            back_ends = {}
            for device in plan.spec.devices:
                back_end = connect(device, plan.backends[device.name], self._waiting)
                connected.callback(back_end.connection.close)
                back_ends[device.name] = back_end
            spec = plan.spec if plan.rings_given else with_offered_rings(plan.spec, back_ends)
            vm = Vm(
                spec,
                accel=plan.accel,
                costs=NATIVE,
                backends=plan.backends,
                connected=back_ends,
                observe=self._emit,
            )
            connected.pop_all()
        self.accel = vm.machine.accel.name
        if plan.incoming is not None:
            self._control.await_incoming(vm)
            if plan.incoming != DEFER:
                self._control.incoming(plan.incoming)
            return
        try:
            self._check_disks(vm.devices)
        except BaseException:
            vm.close()
            raise
        self._control.boot(vm, plan.load)

    def _check_disks(self, devices: Sequence[VhostDevice]) -> None:
        """Check that the guest may overwrite the disks; without a load it does not write."""
        if self._plan.scratch or self._plan.load == "none":
            return
        for device in devices:
            if isinstance(device, VhostUserBlk) and not device.has_feature(VIRTIO_BLK_F_RO):
                check_zeroes(device, TIMEOUT)

    def run(self, watcher: SignalWatcher, seconds: float | None) -> None:
        """Return after ``seconds``, or when a client of the monitor has sent ``quit``.

        Raises:
            SignalError: a signal ends the command.
            MigrationError: the incoming migration has failed.
        """
        fds = [self._wake_fd]
        if self._listener is not None:
            fds.append(self._listener.over_fd)
        end = None if seconds is None else time.monotonic() + seconds
        self._stalls = StallDetector(self._control.vm)
        while True:
            left = StallDetector.PERIOD if end is None else end - time.monotonic()
            if watcher.wait(fds, max(0.0, min(left, StallDetector.PERIOD))):
                self._quit = not self._failure
                break
            if end is not None and time.monotonic() >= end:
                return
            self._stalls.look()
        if self._failure:
            raise MigrationError(Operation.INCOMING, self._failure)
        if self._listener is not None and self._listener.failure is not None:
            raise self._listener.failure

    @property
    def spec(self) -> VmSpec:
        """The VM, once it has started: with the rings that the back-ends offer."""
        return self._control.vm.spec

    def stats(self) -> JsonObject:
        """See `emu.vm_process.commands.VmControl.stats`."""
        return self._control.stats()

    def check(self) -> None:
        """Check that each device has a back-end, and that each request completed correctly.

        Raises:
            EmuError: names the lost devices, the counters of the requests that failed, or the
                devices that do not complete their requests; or the guest has submitted none.
        """
        vm = self._control.vm
        lost = vm.reconnect.lost  # read once: a device may be reconnected meanwhile
        if lost:
            raise EmuError("; ".join(map(str, lost.values())))
        log = vm.guest.request_log()
        if not log.intact:
            raise EmuError(_failed_requests(log))
        problem = self._why_idle()
        end = time.monotonic() + _GRACE
        while problem and time.monotonic() < end:
            time.sleep(_LOOK)  # no event tells that a request has completed
            problem = self._why_idle()
        if problem:
            raise EmuError(problem)

    def _why_idle(self) -> str:
        """Which devices complete nothing, or why none does; an empty string if all work."""
        vm = self._control.vm
        if self._stalls is not None and (stalled := self._stalls.describe()):
            return stalled
        idle = self._plan.load == "none" or not vm.spec.rings_used
        if idle or vm.machine.paused or any(map(any, vm.guest.progress())):
            return ""
        return "the guest has submitted no request"

    def _emit(self, name: str, data: JsonObject) -> None:
        self._monitor.emit(name, data)
        if name == "MIGRATION":
            self._note_migration(data)
        elif name == "DEVICE_LOST":
            self._notice(str(data["reason"]))
        elif name == "DEVICE_NEEDS_RESET":
            self._notice(
                f"{data['device']}: no inflight region shows which requests are completed: the "
                f"driver resets the device, and submits {data['requests']} requests again"
            )
        elif name == "DEVICE_BACK":
            self._notice(f"{data['device']}: has a back-end again")

    def _note_migration(self, data: JsonObject) -> None:
        """Print the end of a migration; a VM that does not arrive ends the command."""
        status = data["status"]
        if status not in ("completed", "failed", "cancelled"):
            return
        arriving = self._plan.incoming is not None and not self._arrived
        if status == "completed":
            self._arrived = True
            self._notice("the VM has arrived" if arriving else "the VM runs at the destination")
            return
        why = data.get("error-desc", status)
        if arriving:
            self._failure = f"the migration failed: {why}"
            os.eventfd_write(self._wake_fd, 1)
        else:
            self._notice(f"the migration failed, the VM runs on: {why}")


def _failed_requests(log: RequestLog) -> str:
    counters = ("lost", "duplicated", "corrupted", "errors", "packets_duplicated")
    found = [(getattr(log, name), name) for name in (*counters, "packets_reordered")]
    failed = ", ".join(f"{count} {name.replace('_', ' ')}" for count, name in found if count)
    return f"of {log.requests} requests and {log.packets_sent} packets: {failed}"
