"""The guest as the machine runs it: drivers, workloads and heartbeat; the host controls them here.

A `GuestProgram` over memory that another one has written continues exactly where that one was
paused: `boot` writes the initial state, `attach` writes nothing.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from emu.config.device_kinds import KINDS, load
from emu.config.vm_spec import ShapeError
from emu.errors import EmuError
from emu.guest.config import GuestConfig
from emu.guest.control_page import (
    DIRTY_RATE,
    DRIVER_WORDS,
    DRIVER_WORDS_AT,
    EPOCH,
    HOLD_READER,
    LIGHT_PACKETS,
    LIGHT_REQUESTS,
    LOAD,
    MODE,
    OVERDUE,
    GuestContext,
    Mode,
)
from emu.guest.disks import DiskDriver
from emu.guest.heartbeat import Heartbeat
from emu.guest.layout import GuestLayout
from emu.guest.nics import NicDriver
from emu.guest.request_log import RequestLog
from emu.guest.workload import TICK_NS, Workload
from vhost_user.errors import UsageError
from vhost_user.memory import PAGE_SIZE

if TYPE_CHECKING:
    from emu.config.vm_spec import VmSpec
    from emu.guest.control_page import DeviceUnit, QueueUnit
    from emu.guest.disk_reader import DiskReader
    from emu.guest.driver import Driver
    from emu.guest.platform import Platform
    from vhost_user.virtqueue import RingAddresses

LOADS = {"none": Mode.QUIET, "light": Mode.LIGHT, "heavy": Mode.HEAVY}


class Verified(NamedTuple):
    """The result of `GuestProgram.verify`.

    Attributes:
        checked: number of blocks read back and compared.
        corrupted: number of those that were wrong.
        finished: all blocks were read back within the timeout.
    """

    checked: int
    corrupted: int
    finished: bool


class Progress(NamedTuple):
    """What a device has done, as its driver sees it.

    Attributes:
        completed: number of requests and packets that it has completed.
        outstanding: number of those that it has not.
    """

    completed: int
    outstanding: int


class RingCounters(NamedTuple):
    """What the driver has counted for a ring, or for a pair of them.

    Attributes:
        first: index of the first ring in the device.
        rings: how many they are.
        completed, outstanding: requests and packets, as of `Progress`.
        kicks: notifications that the driver has sent in this process.
        calls: interrupts that it has handled since the guest booted.
    """

    first: int
    rings: int
    completed: int
    outstanding: int
    kicks: int
    calls: int


class GuestProgram:
    """All guest code of a VM. The vCPUs call `interrupt`, `tick` and `beat`, the host all others.

    Args:
        spec: the VM.
        platform: the machine.
        config: what the drivers negotiated.

    Raises:
        ShapeError: memory, or a disk, is too small.
    """

    def __init__(self, spec: VmSpec, platform: Platform, config: GuestConfig | None = None) -> None:
        self.spec = spec
        self.config = config or GuestConfig()
        self.layout = GuestLayout(spec, platform.ram.free_regions)
        self._platform = platform
        self._context = GuestContext(platform, self.layout)
        self.heartbeat = Heartbeat(self._context.pulse, self.layout.pulse, platform.ram.mark)
        self.beat = self.heartbeat.beat
        self.drivers = self._make_drivers()
        # In the order in which a load begins. Disks first: there are fewer, and they are slower.
        self._units: list[DeviceUnit] = [
            unit for driver in reversed(self.drivers.values()) for unit in driver.units
        ]
        self._handlers = {
            platform.vector(device, ring): handler
            for driver in self.drivers.values()
            for device, ring, handler in driver.handlers()
        }
        self._workload = Workload(self._context, self._units, tuple(self.drivers.values()))

    def _make_drivers(self) -> dict[str, Driver]:
        if self.config.reader is not None and "blk" not in self.layout.units:
            raise ShapeError("a disk is to be read, but the VM has none")
        words = {kind: DRIVER_WORDS_AT + n * DRIVER_WORDS for n, kind in enumerate(KINDS)}
        return {
            kind: load(KINDS[kind].driver)(self._context, places, words[kind], self.config)
            for kind, places in self.layout.units.items()
        }

    @property
    def disks(self) -> DiskDriver:
        """The driver of the disks.

        Raises:
            EmuError: the VM has none.
        """
        driver = self.drivers.get("blk")
        if not isinstance(driver, DiskDriver):
            raise EmuError("the VM has no disks")
        return driver

    @property
    def nics(self) -> NicDriver:
        """The driver of the NICs.

        Raises:
            EmuError: the VM has none.
        """
        driver = self.drivers.get("net")
        if not isinstance(driver, NicDriver):
            raise EmuError("the VM has no NICs")
        return driver

    @property
    def reader(self) -> DiskReader | None:
        """The reader of a user's disk, if there is one."""
        return self.disks.reader if "blk" in self.drivers else None

    # -- boot, attach, close

    def boot(self) -> None:
        """Write the initial state to memory: empty rings, counters at 0, no load."""
        for gpa in (self.layout.control, self.layout.pulse):
            self._platform.ram.view(gpa, PAGE_SIZE)[:] = bytes(PAGE_SIZE)
        for unit in self._units:
            unit.boot()
        for device in range(len(self.spec.devices)):
            self._empty_disabled_rings(device)
        self._context.set(LIGHT_REQUESTS, 1)
        self._context.set(LIGHT_PACKETS, 1)
        self._context.epoch += 1
        self.heartbeat.start(time.monotonic_ns())

    def boot_device(self, device: int) -> None:
        """Write the initial state of one device's rings, by its index on the bus.

        No back-end serves the device meanwhile.
        """
        for driver in self.drivers.values():
            driver.boot_device(device)
        self._empty_disabled_rings(device)

    def boot_lost_device(self, device: int) -> None:
        """`boot_device`, while the vCPUs run and no back-end serves the device; the load goes on.

        Args:
            device: by its index on the bus.
        """
        self.boot_device(device)
        self._fill_again()

    def _empty_disabled_rings(self, device: int) -> None:
        """Write empty rings for those that the driver sets up and does not use."""
        for place in self.layout.disabled_rings(device):
            self._platform.ram.view(place.start, place.length)[:] = bytes(place.length)
            self._platform.ram.mark(place.start, place.length)

    def release_device(self, device: int, timeout: float) -> int:
        """The driver submits nothing more to a device, and waits for what is in flight.

        Args:
            device: by its index on the bus.
            timeout: in seconds.

        Returns:
            How many requests and packets are outstanding at the end; 0 if the driver has released
            the device.
        """
        queues = self._queues_of(device)
        for queue in queues:
            with queue.lock:
                queue.accepting = False
        self._context.idle.begin(queues)
        if self._context.idle.wait(timeout):
            return 0
        return max(1, sum(queue.outstanding() for queue in queues))

    def use_device(self, device: int) -> None:
        """The driver submits requests to a device: it was plugged, or its unplug has failed."""
        for queue in self._queues_of(device):
            queue.accepting = True
        self._fill_again()

    def _fill_again(self) -> None:
        """The next ticks fill the rings again if the load keeps them full."""
        control = self._context.control
        if control[MODE] >= Mode.HEAVY:
            self._enter(Mode(control[MODE]))

    def boot_plugged_device(self, device: int, *, keep: bool) -> None:
        """Write empty rings for a device that is plugged again. The request log goes on.

        Args:
            device: by its index on the bus.
            keep: it holds what was written to it before.
        """
        for queue in self._queues_of(device):
            queue.boot_again(keep=keep)
        self._empty_disabled_rings(device)

    def set_capacity(self, disk: int, sectors: int) -> None:
        """A disk that was plugged, by its number, has so many sectors of 512 bytes."""
        disks = [*self.config.disks]
        disks[disk] = disks[disk]._replace(capacity=sectors)
        self.config = self.config._replace(disks=disks)

    def _queues_of(self, device: int) -> list[QueueUnit]:
        return [queue for driver in self.drivers.values() for queue in driver.queues_of(device)]

    def ring_counters(self, device: int) -> list[RingCounters]:
        """What the driver has counted for each of its queues of a device."""
        return [
            RingCounters(
                queue.place.first_ring,
                len(queue.place.rings),
                queue.completed(),
                queue.outstanding(),
                queue.kicks,
                queue.interrupts,
            )
            for queue in self._queues_of(device)
        ]

    def restart_device(self, device: int) -> int:
        """The driver of a device that needs a reset submits its requests in flight again.

        No back-end serves the device meanwhile; the vCPUs may run.

        Args:
            device: by its index on the bus.

        Returns:
            The number of requests submitted again.
        """
        return sum(driver.restart_device(device) for driver in self.drivers.values())

    def attach(self) -> None:
        """Use memory as it is, or as it will be when the vCPUs run.

        Takes no time: a driver derives its state from memory when it is first used. To be called
        again whenever another process has written the memory in the meantime.
        """
        self._context.epoch += 1
        self.heartbeat.attach()
        for driver in self.drivers.values():
            driver.attach()

    def shift_clock(self, ns: int) -> None:
        """Convert all times in memory from another machine's clock to this one's.

        Args:
            ns: how far this machine's CLOCK_MONOTONIC is ahead of the other's.
        """
        self.heartbeat.shift(ns)
        self._workload.dirty_memory.shift_clock(ns)
        for driver in self.drivers.values():
            driver.shift_clock(ns)

    def close(self) -> None:
        """Release guest memory; the program cannot be used any more."""
        self._handlers.clear()
        self._units.clear()
        for driver in self.drivers.values():
            driver.close()
        self.drivers.clear()
        del self._workload
        del self.heartbeat
        del self.beat
        self._context.close()

    # -- what the vCPUs run

    def interrupt(self, vcpu: int, vector: int) -> None:  # noqa: ARG002 - the machine's signature
        """An interrupt was delivered to a vCPU."""
        handler = self._handlers.get(vector)
        if handler is not None:
            handler()

    def tick(self, vcpu: int, now_ns: int) -> int | None:
        """A vCPU's timer is due; returns when it is due next (ns of CLOCK_MONOTONIC), or None."""
        if vcpu:
            return None
        self._workload.tick(now_ns)
        return now_ns + TICK_NS

    def ring_addresses(self, device: int) -> list[RingAddresses | None]:
        """The addresses of a device's rings, by its index on the bus; None if not set up."""
        return self.layout.ring_addresses(device)

    # -- loads

    def set_dirty_rate(self, rate: int) -> None:
        """Have the guest also write ``rate`` bytes of memory a second; 0 for none.

        Raises:
            EmuError: its memory has no room for that load.
        """
        if rate and not self._workload.dirty_memory.pages:
            raise EmuError("--dirty-rate: the VM's memory has no room for it, give it more memory")
        self._context.set(DIRTY_RATE, rate)

    def start_load(self, load: str | None = None) -> None:
        """Put the guest under load: ``none``, ``light``, ``heavy``, or as it was before.

        Raises:
            UsageError: unknown load.
        """
        if load is not None and load not in LOADS:
            raise UsageError(f"unknown load {load!r}: use {', '.join(LOADS)}")
        context = self._context
        if load is not None:
            context.set(LOAD, LOADS[load])
        context.set(OVERDUE, 0)
        context.set(HOLD_READER, 0)
        self._enter(Mode(context.control[LOAD]))
        if self.reader is not None:
            self.reader.wake()

    resume_load = start_load

    def _enter(self, mode: Mode) -> None:
        """Change the mode; the next ticks fill the units again."""
        context = self._context
        context.set(MODE, mode)
        if mode >= Mode.HEAVY:
            context.set(EPOCH, context.control[EPOCH] + 1)

    def quiesce(self, timeout: float) -> int:
        """Submit nothing new, and wait until nothing is outstanding.

        Args:
            timeout: in seconds.

        Returns:
            How many are outstanding at the end: 0, or what the request log now counts as lost.
        """
        context = self._context
        context.set(HOLD_READER, 1)
        context.set(MODE, Mode.QUIET)
        context.idle.begin(self._units)
        if context.idle.wait(timeout):
            return 0
        context.set(OVERDUE, 1)
        return self.requests_in_flight() + self.packets_in_flight()

    def verify(self, timeout: float) -> Verified:
        """Have the guest read back all that it has written. The load is quiet before and after.

        Args:
            timeout: in seconds.
        """
        context = self._context
        before = self._verified()
        reading = [u for driver in self.drivers.values() for u in driver.begin_verify()]
        self._enter(Mode.VERIFY)
        context.idle.begin(reading)
        finished = context.idle.wait(timeout)
        context.set(MODE, Mode.QUIET)
        after = self._verified()
        return Verified(after[0] - before[0], after[1] - before[1], finished)

    def _verified(self) -> tuple[int, int]:
        found = [driver.verified() for driver in self.drivers.values()]
        return sum(checked for checked, _ in found), sum(corrupted for _, corrupted in found)

    # -- request log

    def request_log(self) -> RequestLog:
        """The sums over all drivers, as guest memory has them now."""
        totals = [unit.request_log() for unit in self._units]
        totals.append(self._workload.dirty_memory.request_log())
        return RequestLog.total(totals)

    def requests_in_flight(self) -> int:
        """Requests submitted and not yet seen completed."""
        return sum(driver.requests_in_flight() for driver in self.drivers.values())

    def packets_in_flight(self) -> int:
        """Packets sent and waited for."""
        return sum(driver.packets_in_flight() for driver in self.drivers.values())

    def progress(self) -> list[Progress]:
        """What each device has done since the guest booted, in their order on the bus."""
        found = [Progress(0, 0) for _ in self.spec.devices]
        for unit in self._units:
            done, left = found[unit.place.device]
            found[unit.place.device] = Progress(done + unit.completed(), left + unit.outstanding())
        return found

    def stats(self) -> dict[str, dict[str, int]]:
        """The drivers' counters since the boot, by the kind's name."""
        return {kind: driver.stats() for kind, driver in self.drivers.items()}
