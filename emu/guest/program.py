"""The guest as the machine runs it: drivers, workloads, heartbeat, and the host's handle on them.

A `GuestProgram` over memory that another one has written goes on exactly where that one was
paused: `boot` writes the beginning, `attach` only looks.
"""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING, NamedTuple

from emu.config.vm_spec import ShapeError, VmSpec
from emu.errors import EmuError
from emu.guest.blk_driver import BlkFeatures, BlkRing
from emu.guest.control_page import (
    DIRTY_RATE,
    EPOCH,
    HOLD_READER,
    LIGHT_PACKETS,
    LIGHT_REQUESTS,
    LOAD,
    MAGIC,
    MAGIC_VALUE,
    MODE,
    OVERDUE,
    GuestContext,
    Mode,
    Unit,
)
from emu.guest.disk_reader import DiskReader
from emu.guest.frames import nic_mac
from emu.guest.heartbeat import Heartbeat
from emu.guest.layout import SERIAL_BYTES, GuestLayout, scratch_bytes
from emu.guest.net_driver import NetPair
from emu.guest.request_log import RequestLog
from emu.guest.workload import TICK_NS, Workload
from vhost_user.errors import UsageError
from vhost_user.memory import PAGE_SIZE
from vhost_user.virtio.blk import SECTOR_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from emu.guest.blk_state import Generation
    from emu.guest.platform import Platform
    from vhost_user.virtqueue import RingAddresses

LOADS = {"none": Mode.QUIET, "light": Mode.LIGHT, "heavy": Mode.HEAVY}


class ReaderConfig(NamedTuple):
    """A disk that is read in full instead of being under the stamped workload: ``blk0``.

    Attributes:
        capacity: sectors of 512 bytes.
        write: write every chunk back after it was read.
    """

    capacity: int
    write: bool = False


class GuestConfig(NamedTuple):
    """What the guest's drivers find out when they probe; the same on both sides of a migration.

    Attributes:
        event_idx, indirect: virtio ring features, negotiated for all devices.
        disks: features of each disk by its number; the default for those that are not there.
        reader: what to do with ``blk0``, when it is a user's disk.
        switched: NICs send to each other in pairs (0 and 1, 2 and 3, ...) instead of to
            themselves, for back-ends that are a switch.
    """

    event_idx: bool = True
    indirect: bool = True
    disks: Sequence[BlkFeatures] = ()
    reader: ReaderConfig | None = None
    switched: bool = False


class Verified(NamedTuple):
    """What `GuestProgram.verify` found: blocks read back, and those that were wrong."""

    checked: int
    corrupted: int
    finished: bool


class GuestProgram:
    """All guest code of a VM. The vCPUs call `interrupt`, `tick` and `beat`; the host the rest.

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
        self.pairs = [self._make_pair(index) for index in range(len(self.layout.pairs))]
        self.reader = self._make_reader()
        self.disks = self._make_disks()
        # In the order in which a load begins. Disks first: they are the fewer and the slower.
        self._units: list[Unit] = [*self.disks, *self.pairs]
        if self.reader is not None:
            self._units.append(self.reader)
        self._handlers = self._make_handlers()
        self._workload = Workload(self._context, self._units, self.disks, self.pairs, self.reader)

    def _make_pair(self, index: int) -> NetPair:
        place = self.layout.pairs[index]
        nics = 1 + max(pair.nic for pair in self.layout.pairs)
        peer = place.nic ^ 1 if self.config.switched and place.nic ^ 1 < nics else place.nic
        return NetPair(
            self._context,
            place,
            nic_mac(peer),
            self._arrived_elsewhere,
            event_idx=self.config.event_idx,
        )

    def _arrived_elsewhere(self, flow: int, sequence: int) -> None:
        if flow < len(self.pairs):
            self.pairs[flow].arrived_elsewhere(sequence)

    def _make_reader(self) -> DiskReader | None:
        config = self.config.reader
        if config is None:
            return None
        places = [place for place in self.layout.disk_rings if place.disk == 0]
        if not places:
            raise ShapeError("a disk is to be read, but the VM has none")
        return DiskReader(
            self._context,
            places,
            config.capacity,
            write=config.write,
            event_idx=self.config.event_idx,
        )

    def _make_disks(self) -> list[BlkRing]:
        rings = []
        for place in self.layout.disk_rings:
            if self.reader is not None and place.disk == 0:
                continue
            features = self.config.disks[place.disk : place.disk + 1]
            disk = features[0] if features else BlkFeatures()
            needed = scratch_bytes(place.ring + 1) // SECTOR_SIZE
            if disk.capacity is not None and disk.capacity < needed:
                raise ShapeError(
                    f"blk{place.disk} has {disk.capacity} sectors; "
                    f"the workload of {place.ring + 1} rings needs {needed}"
                )
            rings.append(
                BlkRing(
                    self._context,
                    place,
                    disk,
                    event_idx=self.config.event_idx,
                    indirect=self.config.indirect,
                )
            )
        return rings

    def _make_handlers(self) -> dict[int, Callable[[], None]]:
        vector = self._platform.vector
        handlers: dict[int, Callable[[], None]] = {}
        for pair in self.pairs:
            handlers[vector(pair.place.device, 2 * pair.place.pair)] = pair.interrupt
            handlers[vector(pair.place.device, 2 * pair.place.pair + 1)] = pair.interrupt
        for disk in self.disks:
            handlers[vector(disk.place.device, disk.place.ring)] = disk.interrupt
        if self.reader is not None:
            for place in self.layout.disk_rings:
                if place.disk == 0:
                    handler = functools.partial(self.reader.interrupt, place.ring)
                    handlers[vector(place.device, place.ring)] = handler
        return handlers

    # -- life

    def boot(self) -> None:
        """Write the guest's beginning to memory: empty rings, empty books, no load."""
        for gpa in (self.layout.control, self.layout.pulse):
            self._platform.ram.view(gpa, PAGE_SIZE)[:] = bytes(PAGE_SIZE)
        for unit in self._units:
            unit.boot()
        self._context.set(LIGHT_REQUESTS, 1)
        self._context.set(LIGHT_PACKETS, 1)
        self._context.set(MAGIC, MAGIC_VALUE)
        self._context.epoch += 1
        self.heartbeat.start(time.monotonic_ns())

    def boot_device(self, device: int) -> None:
        """The driver of a device, by its index on the bus, begins anew: empty rings, empty books.

        The vCPUs are paused meanwhile.
        """
        for disk in self.disks:
            if disk.place.device == device:
                disk.boot()
        for pair in self.pairs:
            if pair.place.device == device:
                pair.boot()

    def attach(self) -> None:
        """Take memory as it is, or as it is going to be when the vCPUs run.

        Costs nothing: what a driver derives from memory it derives when it is first used. To be
        called again whenever another process has written the memory in the meantime.
        """
        self._context.epoch += 1
        self.heartbeat.attach()
        for pair in self.pairs:
            pair.arrive()

    def shift_clock(self, ns: int) -> None:
        """All times in memory are of another machine's clock: go on with this one's.

        Args:
            ns: how far this machine's CLOCK_MONOTONIC is ahead of that one's.
        """
        self.heartbeat.shift(ns)
        self._workload.dirty_memory.shift_clock(ns)
        for pair in self.pairs:
            pair.shift_clock(ns)

    @property
    def booted(self) -> bool:
        """Whether this memory has a guest in it."""
        return self._context.control[MAGIC] == MAGIC_VALUE

    def close(self) -> None:
        """Let go of guest memory; the program cannot be used any more."""
        self._handlers.clear()
        self._units.clear()
        self.pairs.clear()
        self.disks.clear()
        self.reader = None
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
        """A vCPU's timer is due; when it is next (ns of CLOCK_MONOTONIC), None for never."""
        if vcpu:
            return None
        self._workload.tick(now_ns)
        return now_ns + TICK_NS

    def ring_addresses(self, device: int) -> list[RingAddresses]:
        """Where the rings of a device are, by its index on the bus."""
        return self.layout.ring_addresses(device)

    # -- loads

    def set_dirty_rate(self, rate: int) -> None:
        """Have the guest write so many bytes of memory a second besides, or none.

        Raises:
            EmuError: its memory has no room for that.
        """
        if rate and not self._workload.dirty_memory.pages:
            raise EmuError("--dirty-rate: the VM's memory has no room for that, give it more")
        self._context.set(DIRTY_RATE, rate)

    def start_load(self, load: str | None = None) -> None:
        """Put the guest under load: ``none``, ``light``, ``heavy``, or as it was before.

        Raises:
            UsageError: there is no such load.
        """
        if load is not None and load not in LOADS:
            raise UsageError(f"no load {load!r}: it is one of {', '.join(LOADS)}")
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
        """Change the mode; the next ticks fill the units anew."""
        context = self._context
        context.set(MODE, mode)
        if mode >= Mode.HEAVY:
            context.set(EPOCH, context.control[EPOCH] + 1)

    def quiesce(self, deadline: float) -> int:
        """Begin nothing new, and wait until nothing is outstanding.

        Args:
            deadline: in seconds.

        Returns:
            What is outstanding nevertheless: 0, or what the ledger now counts as lost.
        """
        context = self._context
        context.set(HOLD_READER, 1)
        context.set(MODE, Mode.QUIET)
        context.idle.begin(self._units)
        if context.idle.wait(deadline):
            return 0
        context.set(OVERDUE, 1)
        return self.requests_in_flight() + self.packets_in_flight()

    def verify(self, deadline: float) -> Verified:
        """Have the guest read back all that it has written. The load must be quiet, and stays so.

        Args:
            deadline: in seconds.
        """
        context = self._context
        before = self._checked()
        for disk in self.disks:
            disk.begin_verify()
        self._enter(Mode.VERIFY)
        context.idle.begin(self.disks)
        finished = context.idle.wait(deadline)
        context.set(MODE, Mode.QUIET)
        after = self._checked()
        return Verified(after[0] - before[0], after[1] - before[1], finished)

    def _checked(self) -> tuple[int, int]:
        return (
            sum(disk.checked for disk in self.disks),
            sum(disk.corrupted for disk in self.disks),
        )

    # -- books

    def request_log(self) -> RequestLog:
        """The books of all drivers, as memory has them now."""
        totals = [unit.request_log() for unit in self._units]
        totals.append(self._workload.dirty_memory.request_log())
        return RequestLog(*map(sum, zip(RequestLog(), *totals, strict=True)))

    def requests_in_flight(self) -> int:
        """Block requests submitted and not yet seen completed."""
        reader = 0 if self.reader is None else self.reader.outstanding()
        return reader + sum(disk.outstanding() for disk in self.disks)

    def packets_in_flight(self) -> int:
        """Packets sent and waited for."""
        return sum(pair.outstanding() for pair in self.pairs)

    def generations(self, disk: int) -> dict[int, Generation]:
        """What each block of a disk holds, by its index; empty for a disk that is only read."""
        found: dict[int, Generation] = {}
        for ring in self.disks:
            if ring.place.disk == disk:
                found.update(ring.generations())
        return found

    def serial(self, disk: int) -> str:
        """What GET_ID answered for a disk; empty before it was asked."""
        for place in self.layout.disk_rings:
            if place.disk == disk:
                gpa = self.layout.serials + SERIAL_BYTES * place.device
                raw = bytes(self._platform.ram.view(gpa, 20))
                return raw.rstrip(b"\0").decode("ascii", "replace")
        return ""
