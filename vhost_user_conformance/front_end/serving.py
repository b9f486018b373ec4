"""The suite's back-end at work: it takes requests from rings and looks at how they lie there.

Nothing is taken from `vhost_user.virtqueue`: that refuses what is wrong, and here it is noted.
"""

from __future__ import annotations

import contextlib
import os
import struct
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from vhost_user.native import barrier
from vhost_user_conformance.front_end.descriptors import map_shared
from vhost_user_conformance.peer.device_work import (
    BLK_FLUSH,
    BLK_GET_ID,
    BLK_IN,
    BLK_OK,
    BLK_OUT,
    BLK_UNSUPP,
)

if TYPE_CHECKING:
    import mmap

    from vhost_user.payloads import MemoryRegion, VringAddr

NEXT, WRITE, INDIRECT = 1, 2, 4
DESCRIPTOR = struct.Struct("<QIHH")
SECTOR = 512
#: What a disk answers to GET_ID (virtio 1.3, 5.2.6: 20 bytes).
_SERIAL = b"conformance".ljust(20, b"\0")
DISK_BYTES = 1 << 20
#: Bytes that are kept of what a request begins with: a disk's header.
HEADER = 16
NO_INTERRUPT = 1


class Part(NamedTuple):
    """A descriptor of a chain: guest address, bytes, and whether the device may write there."""

    gpa: int
    size: int
    writable: bool


class Chain(NamedTuple):
    """A request as it lay in a ring.

    Attributes:
        ring: index.
        head: of the chain.
        parts: its descriptors.
        indirect: they lay in a table of their own.
        faults: what is wrong with it, in words.
        used: the ring's descriptors that it takes up.
        header: the first bytes that the device reads, as many as `HEADER`.
    """

    ring: int
    head: int
    parts: tuple[Part, ...]
    indirect: bool
    faults: tuple[str, ...]
    used: tuple[int, ...] = ()
    header: bytes = b""


class Mapped(NamedTuple):
    """A region of guest memory, and its mapping, if there can be one.

    Attributes:
        sized: the mapping's file has a size; that of a device file says nothing.
    """

    region: MemoryRegion
    view: mmap.mmap | None
    sized: bool

    @property
    def size(self) -> int:
        """How many of the region's bytes there are now.

        A front-end may cut its file after it has shared it, and whoever looks behind the end gets
        SIGBUS; so the file's size is looked at before each use. One that cuts it between that and
        the use ends the suite still: without a handler of SIGBUS, which Python cannot have,
        nothing is safe but to copy all by pread and pwrite, and a ring cannot be worked on so.
        """
        if self.view is None or not self.sized:
            return self.region.size
        return max(0, min(self.region.size, self.view.size() - self.region.mmap_offset))


class GuestMemory:
    """What a front-end has shared."""

    def __init__(self) -> None:
        self.mapped: list[Mapped] = []

    def add(self, region: MemoryRegion, fd: int) -> None:
        """Map one more."""
        view = map_shared(fd, region.size, region.mmap_offset)
        sized = view is not None and view.size() >= len(view)
        self.mapped.append(Mapped(region, view, sized))

    def remove(self, region: MemoryRegion) -> None:
        """Forget the one at these addresses."""
        self.mapped = [
            each
            for each in self.mapped
            if (each.region.gpa, each.region.size) != (region.gpa, region.size)
        ]

    def clear(self) -> None:
        """Forget them all."""
        self.mapped.clear()

    def gpa(self, user: int, size: int) -> int | None:
        """The guest address of this user address, or None: no region has all of it."""
        for region, *_ in self.mapped:
            if region.user_addr <= user and user + size <= region.user_addr + region.size:
                return user - region.user_addr + region.gpa
        return None

    def view(self, gpa: int, size: int) -> memoryview | None:
        """These bytes, or None: no region that is mapped has them all. Not to be kept for long."""
        for each in self.mapped:
            region = each.region
            if each.view and region.gpa <= gpa and gpa + size <= region.gpa + each.size:
                at = gpa - region.gpa + region.mmap_offset
                return memoryview(each.view)[at : at + size]
        return None

    def covers(self, gpa: int, size: int) -> bool:
        """Whether all of these bytes are shared; they may lie in regions that touch."""
        while size > 0:
            for each in self.mapped:
                start, end = each.region.gpa, each.region.gpa + each.size
                if start <= gpa < end:
                    taken = min(size, end - gpa)
                    gpa, size = gpa + taken, size - taken
                    break
            else:
                return False
        return True


class Ring:
    """A ring of the front-end, as far as it has told of it.

    Attributes:
        size, next, address, kick, call, enabled: as the messages said; None if they have not.
        served: how many chains were taken since it was started last.
        event_idx: VIRTIO_F_EVENT_IDX was acknowledged.
        quiet: the driver is called only where it wants to be.
        in_flight: descriptors of chains that were taken and not given back, by the chain's head.
    """

    def __init__(self, index: int) -> None:
        self.index = index
        self.size = 0
        self.next = 0
        self.address: VringAddr | None = None
        self.kick: int | None = None
        self.call: int | None = None
        self.enabled = False
        self.kicked = False
        self.served = 0
        self.event_idx = False
        self.quiet = False
        self.in_flight: dict[int, tuple[int, ...]] = {}

    @property
    def ready(self) -> bool:
        """Whether it can be worked on."""
        return bool(self.size and self.address is not None and self.kick is not None)

    def stop(self) -> None:
        """GET_VRING_BASE: it has no notifiers any more."""
        fds, self.kick, self.call = (self.kick, self.call), None, None
        self.kicked = False
        self.served = 0
        self.in_flight.clear()
        with contextlib.ExitStack() as owned:
            for fd in fds:
                if fd is not None:
                    owned.callback(os.close, fd)

    def notify(self) -> None:
        """Signal the call eventfd; a descriptor that is none is the cases' business."""
        if self.call is not None:
            with contextlib.suppress(OSError):
                os.write(self.call, (1).to_bytes(8, "little"))


class Walker:
    """Takes requests from one ring.

    The two indices are looked at and written as numbers of 16 bits: byte by byte a driver on
    another CPU would see one that never was.
    """

    def __init__(self, memory: GuestMemory, ring: Ring) -> None:
        address = ring.address
        assert address is not None  # noqa: S101  asked only of rings that are ready
        self._memory = memory
        self._ring = ring
        size = ring.size
        #: used_event and avail_event stand behind the rings where they were agreed on, only.
        more = 6 if ring.event_idx else 4
        self._parts = tuple(
            (memory.gpa(user, length), length)
            for user, length in (
                (address.desc, 16 * size),
                (address.avail, more + 2 * size),
                (address.used, more + 8 * size),
            )
        )
        self._look()

    def _look(self) -> None:
        """The ring's parts, as far as they are there still."""
        self._desc, self._avail, self._used = (
            None if gpa is None else self._memory.view(gpa, size) for gpa, size in self._parts
        )

    @property
    def avail_index(self) -> int | None:
        """The driver's index, or None: the ring is nowhere."""
        if self._avail is None or self._desc is None or self._used is None:
            return None
        return self._avail.cast("H")[1]

    @property
    def used_index(self) -> int:
        """The device's index."""
        assert self._used is not None  # noqa: S101
        return self._used.cast("H")[1]

    def take(self) -> Chain | None:
        """The next request, if there is one."""
        self._look()
        avail, ring = self.avail_index, self._ring
        if avail is None or avail == ring.next & 0xFFFF:
            return None
        waiting = avail - ring.next & 0xFFFF
        faults = [f"{waiting} requests wait in a ring of {ring.size}"] * (waiting > ring.size)
        faults += self.flag_faults()
        head = self._head(ring.next)
        ring.next = ring.next + 1 & 0xFFFF
        ring.served += 1
        chain = self._walk(head, faults)
        ring.in_flight[chain.head] = chain.used
        return chain

    def look_ahead(self, count: int) -> list[Chain]:
        """The next requests, so many at most, which stay where they are."""
        self._look()
        avail, ring = self.avail_index, self._ring
        if avail is None:
            return []
        waiting = min(avail - ring.next & 0xFFFF, ring.size)
        return [
            self._walk(self._head(ring.next + ahead & 0xFFFF), [])
            for ahead in islice(range(waiting), count)
        ]

    def _head(self, index: int) -> int:
        assert self._avail is not None  # noqa: S101
        head: int = struct.unpack_from("<H", self._avail, 4 + 2 * (index % self._ring.size))[0]
        return head

    def flag_faults(self) -> list[str]:
        """Virtio 1.3, 2.7.7.1: flags are 0 with the event index, and 0 or 1 without it."""
        if self._avail is None:
            return []
        flags = self._avail.cast("H")[0]
        most = 0 if self._ring.event_idx else NO_INTERRUPT
        return [f"the available ring has flags {flags:#x}"] * (flags > most)

    def _walk(self, head: int, faults: list[str]) -> Chain:
        table, size = self._desc, self._ring.size
        assert table is not None  # noqa: S101
        parts: list[Part] = []
        used: list[int] = []
        taken = {one for chain in self._ring.in_flight.values() for one in chain}
        index, indirect, seen = head, False, 0
        while True:
            if index >= size:
                faults.append(f"descriptor {index} of a table of {size}")
                break
            if not indirect:
                used.append(index)
                if index in taken:
                    faults.append(f"descriptor {index} belongs to a request in flight")
            gpa, length, flags, following = DESCRIPTOR.unpack_from(table, 16 * index)
            seen += 1
            if flags & INDIRECT:
                inner = self._memory.view(gpa, length)
                faults += self._indirect_faults(length, flags, indirect, inner)
                if indirect or inner is None or not length or length % 16:
                    break
                table, size, index, indirect, seen = inner, length // 16, 0, True, 0
                continue
            part = Part(gpa, length, bool(flags & WRITE))
            faults += self._part_faults(part, parts)
            parts.append(part)
            if not flags & NEXT:
                break
            if seen >= size:
                faults.append("the chain has a loop")
                break
            index = following
        ring, header = self._ring.index, self._header(parts)
        return Chain(ring, head, tuple(parts), indirect, tuple(faults), tuple(used), header)

    def _header(self, parts: list[Part]) -> bytes:
        found = b""
        for part in parts:
            missing = HEADER - len(found)
            if part.writable or not missing:
                break
            found += self._memory.view(part.gpa, min(part.size, missing)) or b""
        return found

    def _part_faults(self, part: Part, before: list[Part]) -> list[str]:
        faults = []
        if not self._memory.covers(part.gpa, part.size):
            faults.append(f"{part.size} bytes at {part.gpa:#x} are in no region")
        if before and before[-1].writable and not part.writable:
            faults.append("a descriptor to read stands behind one to write")
        return faults

    @staticmethod
    def _indirect_faults(length: int, flags: int, nested: bool, inner: object) -> list[str]:  # noqa: FBT001
        faults = []
        if nested:
            faults.append("an indirect table stands in an indirect table")
        if not length or length % 16:
            faults.append(f"an indirect table of {length} bytes")
        if flags & NEXT:
            faults.append("a descriptor has both INDIRECT and NEXT")
        if inner is None:
            faults.append("an indirect table is in no region")
        return faults

    def give_back(self, chain: Chain, written: int) -> None:
        """Complete a request, ask for a kick at the next one, and signal.

        Where the used ring has gone meanwhile, nothing can be said.
        """
        self._look()
        used = self._used
        if used is None:
            return
        ring = self._ring
        size, index = ring.size, self.used_index
        ring.in_flight.pop(chain.head, None)
        struct.pack_into("<II", used, 4 + 8 * (index % size), chain.head, written)
        barrier()
        used.cast("H")[1] = index + 1 & 0xFFFF
        self.want_kick()
        if not ring.quiet or self._call_wanted(index):
            ring.notify()

    def _call_wanted(self, index: int) -> bool:
        """Whether the driver wants to be called when this entry of the used ring is there."""
        barrier()
        avail = self._avail
        if avail is None:
            return True
        if self._ring.event_idx:
            return avail.cast("H")[2 + self._ring.size] == index
        return not avail.cast("H")[0] & NO_INTERRUPT

    def want_kick(self) -> None:
        """The event index, where it was agreed on: kick at the next request.

        Whoever asks for that looks once more whether there is one already.
        """
        if self._used is not None and self._ring.event_idx:
            self._used.cast("H")[2 + 4 * self._ring.size] = self._ring.next & 0xFFFF
            barrier()


class Device:
    """What the suite's back-end is: a disk that keeps what is written, or a sink for frames.

    Rings of which it does not know what is in them are left alone: their requests wait.
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._bytes = bytearray(DISK_BYTES)

    def handles(self, ring: int) -> bool:
        """Whether it completes this ring's requests."""
        return self._kind == "blk" or (self._kind == "net" and ring % 2 == 1)

    def do(self, memory: GuestMemory, chain: Chain) -> int:
        """Carry a request out; how many bytes were written."""
        return self._disk(memory, chain) if self._kind == "blk" else 0

    def _disk(self, memory: GuestMemory, chain: Chain) -> int:
        views = [(memory.view(part.gpa, part.size), part.writable) for part in chain.parts]
        readable = b"".join(view for view, writable in views if view is not None and not writable)
        room = [view for view, writable in views if view is not None and writable]
        if len(readable) < 16 or not room or not room[-1]:
            return 0
        kind, _, sector = struct.unpack_from("<IIQ", readable)
        at, status = sector * SECTOR, BLK_OK
        # The last byte is the status, and may stand behind data in one descriptor.
        data = [*room[:-1], room[-1][:-1]]
        written = sum(map(len, data))
        if kind == BLK_IN:
            for view in data:
                view[:] = bytes(self._bytes[at : at + len(view)]).ljust(len(view), b"\0")
                at += len(view)
        elif kind == BLK_OUT:
            piece = readable[16 : 16 + max(0, DISK_BYTES - at)]
            self._bytes[at : at + len(piece)] = piece
        elif kind == BLK_GET_ID:
            for view in data:
                view[:] = _SERIAL[: len(view)].ljust(len(view), b"\0")
        elif kind != BLK_FLUSH:
            status = BLK_UNSUPP
        room[-1][-1] = status
        return written + 1
