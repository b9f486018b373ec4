"""A whole VM: machine, guest and devices, from power-on to power-off."""

from __future__ import annotations

import struct
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from backends.pacing import Pacer
from devices import lifecycle
from devices.device import SharedMemory, VhostDevice
from devices.handover_state import DeviceHandoverState, descriptors_of, restore
from emu.config.device_kinds import KINDS, load
from emu.errors import MigrationError, Operation
from emu.guest.program import GuestProgram
from emu.locking.locks import OrderedLock
from emu.machine.machine import Machine
from emu.strategies.split import Split
from emu.strategies.task import Stage, Task
from emu.strategies.timeline import Timeline
from emu.vm.early_stops import StoppedRings, Unfinished, await_back_ends
from emu.vm.guest_config import guest_config
from emu.vm.handover_state import VmHandoverState
from emu.vm.reconnect import Observer, ReconnectManager
from vhost_user import eventfd
from vhost_user.errors import UsageError, VhostUserError
from vhost_user.memory import PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from devices.device import BackEnd
    from devices.procedure import Procedure
    from devices.vring import Vring
    from emu.config.costs import CostModel
    from emu.config.vm_spec import VmSpec
    from emu.guest.config import GuestConfig
    from emu.vm.guest_config import DiskUse

#: Seconds that one request to a device, or one change of the vCPUs, may take.
TIMEOUT = 10.0
#: Seconds for each reply while a lost device is reconnected.
REPLY_TIMEOUT = 2.0
#: Seconds to wait for a heartbeat, which is due every millisecond.
HEARTBEAT_TIMEOUT = 0.2
#: Nanoseconds: after a heartbeat that is older than this a later one may have followed.
HEARTBEAT_FRESH_NS = 300_000
#: Attempts to observe a fresh heartbeat.
HEARTBEAT_TRIES = 5


def _ignore(_name: str, _data: dict[str, object]) -> None:
    """Ignore an event: the default observer."""


class Vm:
    """A VM and its vhost-user devices, connected to their back-ends.

    Args:
        spec: vCPUs, memory and devices.
        accel: ``auto``, ``soft`` or ``kvm``.
        costs: latency injected into the machine's notifiers.
        backends: socket path of each device's back-end, by the device's name.
        connected: connected back-ends, by the device's name, which the VM closes; it connects to
            the others.
        disk: how the guest uses the image file of ``blk0``; None if that is a scratch image.
        timeout: seconds that one request to a device may take.
        observe: called for each device that is lost or reconnected.
        handed_over: memory and running devices of the VM in another process. No message is then
            sent to a back-end, and no memory is written.

    Attributes:
        backends: the argument, or the paths in ``handed_over``.
        devices: those that are plugged, in their order on the bus.
        driving: held by the thread that uses the back-ends of a running VM; while the vCPUs are
            paused only the migration uses them.
        reconnect: reconnects devices that lost their back-ends; paused until the VM runs.

    Raises:
        VhostUserError: a back-end cannot be reached, or lacks a feature that the VM needs.
        EmuError, ShapeError: the host does not support the accelerator or so large a VM.
        OSError: out of descriptors or memory.
    """

    def __init__(
        self,
        spec: VmSpec,
        *,
        accel: str,
        costs: CostModel,
        backends: Mapping[str, str],
        connected: Mapping[str, BackEnd] | None = None,
        disk: DiskUse | None = None,
        timeout: float = TIMEOUT,
        observe: Observer = _ignore,
        handed_over: VmHandoverState | None = None,
    ) -> None:
        self.spec = spec
        self.timeout = timeout
        self.backends = backends if handed_over is None else handed_over.backends
        self.devices: list[VhostDevice] = []
        self.driving = OrderedLock("the devices")
        self._eventfds = eventfd.default()
        self._slots = {device.name: slot for slot, device in enumerate(spec.devices)}
        with ExitStack() as cleanup:
            memory = () if handed_over is None else handed_over.memory
            self.machine = Machine(spec, costs, pacer=Pacer(), accel=accel, memory_fds=memory)
            cleanup.callback(self.machine.close)
            cleanup.callback(self._close_devices)
            self.devices += [self.make_device(device.name) for device in spec.present]
            if handed_over is None:
                self._connect(connected or {})
                config = guest_config(self.devices, disk, self.timeout)
            else:
                config = self._restore(handed_over)
            self.guest = GuestProgram(spec, self.machine, config)
            cleanup.callback(self._close_guest)
            self.machine.start_vcpus(self.guest)
            self._observe = observe
            self.reconnect = ReconnectManager(self.devices, self._reconnect_device, observe)
            cleanup.callback(self.reconnect.close)
            self._cleanup = cleanup.pop_all()

    def slot(self, name: str) -> int:
        """The slot of a device on the bus, by its name: its index in the machine and the guest."""
        return self._slots[name]

    def device_at(self, slot: int) -> VhostDevice:
        """The device in a slot, which is not empty."""
        return next(device for device in self.devices if self._slots[device.name] == slot)

    def make_device(self, name: str) -> VhostDevice:
        """A new device for a slot, not connected: `plug` adds it to the VM.

        Raises:
            OSError: out of descriptors.
        """
        slot = self._slots[name]
        spec = self.spec.devices[slot]
        rings = range(spec.rings)
        front_end: type[VhostDevice] = load(KINDS[spec.device_class].front_end)
        device = front_end(
            spec.name,
            [self.machine.notify_address(slot, ring) for ring in rings],
            [self.machine.vector(slot, ring) for ring in rings],
        )
        device.memory = [
            SharedMemory(part.gpa, part.size, part.fd) for part in self.machine.ram.regions
        ]
        device.disable_rings(spec.rings_disabled)
        self.machine.set_device_handler(slot, device.kick)
        return device

    def plug(self, device: VhostDevice, path: str) -> None:
        """Add a device to the VM, in its slot, while reconnecting is paused.

        Args:
            device: of `make_device`, connected.
            path: socket of its back-end, to reconnect.
        """
        with self.driving:
            self.devices.append(device)
            self.devices.sort(key=lambda device: self._slots[device.name])
            self.backends = {**self.backends, device.name: path}
            self.spec = self.spec.with_device(device.name)

    def unplug(self, device: VhostDevice) -> None:
        """Remove a device that is stopped, and close it, while reconnecting is paused."""
        with self.driving:
            self.devices.remove(device)
            self.spec = self.spec.without(device.name)
            self.machine.remove_device_handler(self._slots[device.name])
        self.reconnect.forget(device)
        device.close()

    def _connect(self, connected: Mapping[str, BackEnd]) -> None:
        for device in self.devices:
            if device.name in connected:
                device.use(connected[device.name])
            else:
                device.connect(self.backends[device.name], timeout=self.timeout)

    def _restore(self, handed_over: VmHandoverState) -> GuestConfig:
        """Restore devices whose rings already run; return the guest configuration."""
        for device, (known, fds) in zip(self.devices, handed_over.by_device(), strict=True):
            restore(device, known, fds)
        return handed_over.config

    def handover_state(self) -> VmHandoverState:
        """The state that another process needs to run this VM; this VM keeps its descriptors open.

        Raises:
            MigrationError: a device cannot be handed over.
        """
        try:
            with self.driving:
                return VmHandoverState(
                    self.guest.config,
                    dict(self.backends),
                    tuple(DeviceHandoverState.of(device) for device in self.devices),
                    tuple(region.fd for region in self.machine.ram.regions),
                    tuple(fd for device in self.devices for fd in descriptors_of(device)),
                )
        except UsageError as error:
            raise MigrationError(Operation.HANDOVER, str(error)) from error

    def still_matches(self, state: VmHandoverState) -> bool:
        """Whether the guest has changed no device since `handover_state`."""
        with self.driving:
            return all(
                known.still_matches(device)
                for known, device in zip(state.devices, self.devices, strict=True)
            )

    def boot(self, before_running: Callable[[], None] | None = None) -> None:
        """Power on: the guest's drivers set their rings up, the devices and then the vCPUs start.

        Args:
            before_running: called when the devices have started and the vCPUs do not run yet.
        """
        self.guest.boot()
        for device in self.devices:
            device.set_up_rings(self.guest.ring_addresses(self._slots[device.name]))
        self.start_devices()
        if before_running is not None:
            before_running()
        self.resume_vcpus()
        self.reconnect.resume()

    def start_devices(self) -> None:
        """Start every device that is stopped.

        Raises:
            VhostUserError: a device cannot be started; the others have been.
        """
        self.drive(lifecycle.start(device) for device in self.devices)
        self.signal_all_rings()

    def stop_devices(self) -> None:
        """Stop the rings of every device; the notifiers stay assigned.

        Raises:
            VhostUserError: a device cannot be stopped; the others have been.
        """
        self.drive(lifecycle.stop_rings(device) for device in self.devices)

    @property
    def drains(self) -> bool:
        """Whether `drain_requests` has to wait for a device."""
        return any(device.drains for device in self.devices)

    def drain_requests(self, timeout: float) -> None:
        """Wait until all requests of the devices that need it are completed (`VhostDevice.drains`).

        The vCPUs are paused, so the guest submits none, and sends no kick. A driver that submits
        requests in batches may have made some available and not sent the kick yet, so the rings are
        kicked here.

        Args:
            timeout: seconds.

        Raises:
            VhostUserError: a back-end has not completed its requests in time, or has disconnected.
        """
        self._eventfds.signal(
            [
                ring.kick_fd
                for device in self.devices
                if device.drains
                for ring in device.rings
                if ring.started
            ]
        )
        await_back_ends(
            lambda: [
                Unfinished(device, f"has no inflight region, and has not completed {left} requests")
                for device in self.devices
                if device.drains and (left := self._not_completed(device))
            ],
            timeout,
        )

    def _not_completed(self, device: VhostDevice) -> int:
        """Requests that were made available in rings that run, and are not used yet."""
        return sum(
            (available - completed) & 0xFFFF
            for ring, available, completed in self._ring_indices(device)
            if ring.started
        )

    def stopped_rings(self, devices: Iterable[VhostDevice] | None = None) -> StoppedRings:
        """The rings of these devices, by default of all, as they are before they stop."""
        return StoppedRings(self.devices if devices is None else devices, self.machine.ram)

    def recover_devices(self) -> None:
        """Start every device again, from any state.

        A device that cannot be started does not delay the others. A device whose back-end has
        disconnected, or whose connection is broken, is lost: it is reconnected when a back-end
        listens. Its requests stay in its rings.

        A device that was stopped with requests in flight and has no inflight region is lost, too
        (QEMU 7.2's storage daemon answers GET_VRING_BASE at once). The back-end still uses the
        memory of these requests, which SET_MEM_TABLE would unmap. When the connection is closed,
        the back-end has to complete them.
        """
        kept: list[VhostDevice] = []
        for device in self.devices:
            reason = self._why_unusable(device)
            if not reason:
                kept.append(device)
            elif device.name not in self.reconnect.lost:
                error = VhostUserError(f"its back-end is lost: {reason}", device=device.name)
                self.reconnect.mark_lost(device, error)
        strategy = Split(lenient=True)
        self._drive(kept, map(lifecycle.start, kept), strategy)
        for device in kept:
            if device.name in strategy.failures:
                self.reconnect.mark_lost(device, strategy.failures[device.name])
        self.signal_all_rings()

    def _why_unusable(self, device: VhostDevice) -> str | None:
        """Why a device cannot be started on its connection, or None."""
        if not device.connected:
            return "not connected"
        if device.connection.broken:
            return device.connection.broken_reason
        if device.resumable:
            return None
        in_flight = sum(
            (ring.base - completed) & 0xFFFF
            for ring, _, completed in self._ring_indices(device)
            if not ring.started
        )
        if in_flight:
            return f"stopped with {in_flight} requests in flight, which no inflight region records"
        return None

    def _reconnect_device(self, device: VhostDevice) -> None:
        """Connect a lost device again, and start it.

        The bases of its rings are unknown, so each starts at its used index. A disk's back-end
        finds the requests that are not completed in the inflight region; a NIC's processes again
        the buffers that it had popped and not completed. Without the region a back-end may have
        completed later requests and not earlier ones, and nothing shows which: the device needs a
        reset (`_reset_lost_device`).

        The driver sets up rings only after the back-end has answered. One that serves one front-end
        after the other, as nearly all do, has then completed the requests of the last connection,
        or dropped them: it writes no more to memory where rings were before.
        """
        acked = device.acked_features
        try:
            device.connect(self.backends[device.name], timeout=REPLY_TIMEOUT, connect_timeout=0)
            device.use_features(acked)
            with self.driving:
                rings = self._ring_indices(device)
                if not rings:
                    self._boot_lost_device(device)
                elif device.resumable or not any(
                    ring.served and available != used for ring, available, used in rings
                ):
                    for ring, _, used in rings:
                        ring.base = used
                else:
                    self._reset_lost_device(device)
            self.drive_one(device, lifecycle.start(device))
        except VhostUserError:
            device.disconnect()
            device.acked_features = acked
            raise
        self._eventfds.signal(device.notifier_fds())

    def _ring_indices(self, device: VhostDevice) -> list[tuple[Vring, int, int]]:
        """The rings that the driver has set up, each with its available and its used index."""
        view = self.machine.ram.view
        return [
            (
                ring,
                *(struct.unpack_from("<H", view(at, 4), 2)[0] for at in (where.avail, where.used)),
            )
            for ring in device.configured_rings()
            if (where := ring.addresses) is not None
        ]

    def _boot_lost_device(self, device: VhostDevice) -> None:
        """Have the guest's driver set up a device that it has reset when no back-end served it."""
        slot = self._slots[device.name]
        self.guest.boot_lost_device(slot)
        device.set_up_rings(self.guest.ring_addresses(slot))

    def _reset_lost_device(self, device: VhostDevice) -> None:
        """Have the guest's driver reset a device that no back-end serves (DEVICE_NEEDS_RESET).

        The driver submits its requests in flight again, in rings that start at index 0.
        """
        slot = self._slots[device.name]
        again = self.guest.restart_device(slot)
        device.set_up_rings(self.guest.ring_addresses(slot))
        self._observe("DEVICE_NEEDS_RESET", {"device": device.name, "requests": again})

    def reset_device(self, slot: int) -> None:
        """Reset the device in a slot, as its driver does at any moment.

        Requests that its back-end has not completed when the rings have stopped are awaited: it
        would complete them in the rings as set up again.

        Raises:
            VhostUserError: its back-end has failed.
        """
        device = self.device_at(slot)
        rings = self.stopped_rings([device])
        self.drive_one(device, lifecycle.stop(device))
        rings.await_requests(self.timeout)
        self.drive_one(device, lifecycle.reset(device))

    def activate_device(self, slot: int) -> None:
        """Start the device in a slot, whose driver has set its rings up anew.

        Raises:
            VhostUserError: its back-end has failed, or its rings run.
        """
        device = self.device_at(slot)
        self.drive_one(device, lifecycle.activate(device, self.guest.ring_addresses(slot)))
        self._eventfds.signal(device.notifier_fds())

    def stop_logging(self) -> None:
        """Disable the dirty log of every device that has a back-end.

        A back-end for which that fails continues to write to the log, which is harmless.
        """
        kept = [device for device in self.devices if device.connected]
        for device in self.devices:
            if not device.connected:
                device.forget_log()
        procedures = [lifecycle.set_logging(device, None) for device in kept]
        self._drive(kept, procedures, Split(lenient=True))

    def drive(self, procedures: Iterable[Procedure]) -> None:
        """Run one procedure for each device, all in flight, with the strategy `Split`."""
        self._drive(self.devices, procedures)

    def drive_one(self, device: VhostDevice, procedure: Procedure) -> None:
        """Run a procedure of one device."""
        self._drive([device], [procedure])

    def _drive(
        self,
        devices: Iterable[VhostDevice],
        procedures: Iterable[Procedure],
        strategy: Split | None = None,
    ) -> None:
        # The guest may reset a device while a migration enables the log or probes the devices.
        with self.driving:
            tasks = [
                Task(device.name, device.device_class, procedure)
                for device, procedure in zip(devices, procedures, strict=True)
            ]
            for task in tasks:
                task.begin()
            stage = Stage(self.machine, Timeline(), self.timeout)
            (strategy or Split()).drive(tasks, stage)

    def signal_all_rings(self) -> None:
        """Kick and call every started ring once, so that no pending notification is lost."""
        self._eventfds.signal([fd for device in self.devices for fd in device.notifier_fds()])

    def await_heartbeat(self) -> None:
        """Return just after a heartbeat, or after `HEARTBEAT_TIMEOUT`: the guest may hang.

        The guest measures the blackout between two heartbeats. On a busy host the last one may be
        long ago, and that delay would count as part of the blackout.
        """
        for _ in range(HEARTBEAT_TRIES):
            self.machine.vcpus.arm(0, time.monotonic_ns())
            beat = self.guest.heartbeat.await_beat(HEARTBEAT_TIMEOUT)
            if beat is None or time.monotonic_ns() - beat < HEARTBEAT_FRESH_NS:
                return

    def resume_incoming(self, timeout: float) -> int:
        """Resume a VM after its incoming migration, and wait until it runs.

        The guest's threads compete for the interpreter, so this thread may return late: the
        returned time is that of the event.

        Returns:
            CLOCK_MONOTONIC nanoseconds at which guest code, and each vCPU that had been running,
            had run again.
        """
        heartbeat = self.guest.heartbeat
        self.machine.vcpus.arm(0, time.monotonic_ns())
        self.resume_vcpus(timeout)
        ran = self.machine.gate.ran_ns
        if not heartbeat.first_ns:
            heartbeat.await_beat(timeout)
        return max(ran, heartbeat.first_ns or time.monotonic_ns())

    def pause_vcpus(self, timeout: float = TIMEOUT) -> None:
        """Pause all vCPUs; returns when none runs guest code."""
        self.machine.pause(timeout)

    def resume_vcpus(self, timeout: float = TIMEOUT) -> None:
        """Resume all vCPUs; returns when each one that had been running runs again."""
        self.machine.resume(timeout)

    @property
    def log_pages(self) -> int:
        """Pages that a dirty log covers: from address 0 to the end of memory."""
        return max(part.gpa + part.size for part in self.machine.ram.regions) // PAGE_SIZE

    def disconnect(self) -> None:
        """Close all connections; the back-ends then stop their rings."""
        for device in self.devices:
            device.disconnect()

    def _close_devices(self) -> None:
        for device in self.devices:
            device.close()

    def _close_guest(self) -> None:
        self.machine.stop()
        self.guest.close()

    def close(self) -> None:
        """Power off, in any state; idempotent."""
        self._cleanup.close()
