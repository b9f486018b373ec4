"""Takes requests from rings, and records what is invalid in them.

`vhost_user.virtqueue` is not used, since it raises an error for an invalid request.
"""

from __future__ import annotations

import contextlib
import os
import struct
from enum import Enum, auto
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from vhost_user import eventfd
from vhost_user.native import barrier

if TYPE_CHECKING:
    from vhost_user.payloads import VringAddr
    from vhost_user_conformance.front_end.guest_memory import GuestMemory

NEXT, WRITE, INDIRECT = 1, 2, 4
DESCRIPTOR = struct.Struct("<QIHH")
#: Number of bytes of a request that are recorded: the header of a disk request.
HEADER = 16
NO_INTERRUPT = 1


class FaultKind(Enum):
    """What may be invalid in a request."""

    BUFFER_OUTSIDE = auto()
    TABLE_OUTSIDE = auto()
    ORDER = auto()
    INDEX = auto()
    LOOP = auto()
    AVAILABLE = auto()
    INDIRECT = auto()
    IN_FLIGHT = auto()


class Fault(NamedTuple):
    """Something invalid in a request, and its description."""

    kind: FaultKind
    text: str


class Part(NamedTuple):
    """A descriptor of a chain: guest address, size in bytes, and whether it is device-writable."""

    gpa: int
    size: int
    writable: bool


class Chain(NamedTuple):
    """A request, as it was in the ring.

    Attributes:
        ring: index.
        head: of the chain.
        parts: its descriptors.
        indirect: the descriptors were in an indirect table.
        faults: what is invalid in it.
        used: indices of its descriptors in the ring's table.
        header: the first `HEADER` device-readable bytes.
    """

    ring: int
    head: int
    parts: tuple[Part, ...]
    indirect: bool
    faults: tuple[Fault, ...]
    used: tuple[int, ...] = ()
    header: bytes = b""


class Ring:
    """A ring of the front-end, as its messages have configured it.

    Attributes:
        size, next, address, kick, call, enabled: as the messages have set them.
        begun: its start was recorded.
        served: number of chains that were taken since the last start.
        event_idx: VIRTIO_F_EVENT_IDX was acknowledged.
        quiet: the driver is notified only if it requests it.
        in_flight: descriptors of chains that are not completed, by the chain's head.
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
        self.begun = False
        self.served = 0
        self.event_idx = False
        self.quiet = False
        self.in_flight: dict[int, tuple[int, ...]] = {}

    @property
    def ready(self) -> bool:
        """Whether requests can be taken from it."""
        return bool(self.size and self.address is not None and self.kick is not None)

    def stop(self) -> None:
        """GET_VRING_BASE: close its notifiers."""
        fds, self.kick, self.call = (self.kick, self.call), None, None
        self.kicked = False
        self.begun = False
        self.served = 0
        self.in_flight.clear()
        with contextlib.ExitStack() as owned:
            for fd in fds:
                if fd is not None:
                    owned.callback(os.close, fd)

    def notify(self) -> None:
        """Signal the call eventfd; the cases judge a descriptor that is not an eventfd."""
        if self.call is not None:
            with contextlib.suppress(OSError):
                eventfd.signal(self.call)


class Walker:
    """Takes requests from one ring, and completes them.

    The two indices are accessed as 16-bit numbers: of an access byte by byte a driver on another
    CPU could see half.
    """

    def __init__(self, memory: GuestMemory, ring: Ring) -> None:
        address = ring.address
        assert address is not None  # noqa: S101  only for rings that are ready
        self._memory = memory
        self._ring = ring
        size = ring.size
        #: used_event and avail_event follow the rings only if EVENT_IDX was negotiated.
        more = 6 if ring.event_idx else 4
        self._parts = tuple(
            (memory.gpa(user, length), length)
            for user, length in (
                (address.desc, 16 * size),
                (address.avail, more + 2 * size),
                (address.used, more + 8 * size),
            )
        )
        self._map()

    def _map(self) -> None:
        """Map the ring's parts again, as their memory may have been unmapped."""
        self._desc, self._avail, self._used = (
            None if gpa is None else self._memory.view(gpa, size) for gpa, size in self._parts
        )

    @property
    def avail_index(self) -> int | None:
        """The driver's index; None if the ring is not in guest memory."""
        if self._avail is None or self._desc is None or self._used is None:
            return None
        return self._avail.cast("H")[1]

    @property
    def used_index(self) -> int:
        """The device's index."""
        assert self._used is not None  # noqa: S101
        return self._used.cast("H")[1]

    def take(self) -> Chain | None:
        """Take the next request; None if there is none."""
        self._map()
        avail, ring = self.avail_index, self._ring
        if avail is None or avail == ring.next & 0xFFFF:
            return None
        waiting = avail - ring.next & 0xFFFF
        faults: list[Fault] = []
        if waiting > ring.size:
            text = f"{waiting} requests available in a ring of {ring.size}"
            faults.append(Fault(FaultKind.AVAILABLE, text))
        head = self._head(ring.next)
        ring.next = ring.next + 1 & 0xFFFF
        ring.served += 1
        chain = self._walk(head, faults)
        ring.in_flight[chain.head] = chain.used
        return chain

    def look_ahead(self, count: int) -> list[Chain]:
        """The next requests, at most ``count``, without taking them."""
        self._map()
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

    def _walk(self, head: int, faults: list[Fault]) -> Chain:
        table, size = self._desc, self._ring.size
        assert table is not None  # noqa: S101
        parts: list[Part] = []
        used: list[int] = []
        taken = {one for chain in self._ring.in_flight.values() for one in chain}
        index, indirect, seen = head, False, 0
        while True:
            if index >= size:
                faults.append(Fault(FaultKind.INDEX, f"descriptor {index} of a table of {size}"))
                break
            if not indirect:
                used.append(index)
                if index in taken:
                    text = f"descriptor {index} belongs to a request in flight"
                    faults.append(Fault(FaultKind.IN_FLIGHT, text))
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
                faults.append(Fault(FaultKind.LOOP, "the chain has a loop"))
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

    def _part_faults(self, part: Part, before: list[Part]) -> list[Fault]:
        faults = []
        if not self._memory.covers(part.gpa, part.size):
            text = f"{part.size} bytes at {part.gpa:#x} are not in a region"
            faults.append(Fault(FaultKind.BUFFER_OUTSIDE, text))
        if before and before[-1].writable and not part.writable:
            text = "a device-readable descriptor follows a device-writable one"
            faults.append(Fault(FaultKind.ORDER, text))
        return faults

    @staticmethod
    def _indirect_faults(length: int, flags: int, nested: bool, inner: object) -> list[Fault]:  # noqa: FBT001
        texts = []
        if nested:
            texts.append("an indirect table contains an indirect table")
        if not length or length % 16:
            texts.append(f"an indirect table of {length} bytes")
        if flags & NEXT:
            texts.append("a descriptor has both INDIRECT and NEXT")
        faults = [Fault(FaultKind.INDIRECT, text) for text in texts]
        if inner is None:
            text = "an indirect table is not in a region"
            faults.append(Fault(FaultKind.TABLE_OUTSIDE, text))
        return faults

    def give_back(self, chain: Chain, written: int) -> None:
        """Complete a request, request a kick for the next one, and notify the driver.

        Does nothing if the used ring has been unmapped.
        """
        self._map()
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
        """Whether the driver requests a notification for this entry of the used ring."""
        barrier()
        avail = self._avail
        if avail is None:
            return True
        if self._ring.event_idx:
            return avail.cast("H")[2 + self._ring.size] == index
        return not avail.cast("H")[0] & NO_INTERRUPT

    def want_kick(self) -> None:
        """With EVENT_IDX: request a kick for the next request.

        The caller then checks again whether a request is available.
        """
        if self._used is not None and self._ring.event_idx:
            self._used.cast("H")[2 + 4 * self._ring.size] = self._ring.next & 0xFFFF
            barrier()
