"""The in-flight region, and rings whose requests are recorded in it."""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, NamedTuple

from vhost_user.mapping import Mapping, MappingError
from vhost_user.payloads import Inflight
from vhost_user_conformance.back_end.connection import BackEnd, F
from vhost_user_conformance.model.verdict import Failed, check, unsupported

if TYPE_CHECKING:
    from vhost_user_conformance.peer.memory import TestRing

#: A split ring's part: features, version, desc_num, last_batch_head, used_idx.
HEADER = struct.Struct("<QHHHH")
#: A descriptor's state: inflight, next, counter.
STATE = struct.Struct("<B5xHQ")
SIZE = 64


class Region(NamedTuple):
    """A region, mapped by the suite.

    Attributes:
        message: its description, as sent or received.
        fd: its file.
        view: its bytes.
    """

    message: Inflight
    fd: int
    view: memoryview

    def header(self, ring: int = 0) -> tuple[int, ...]:
        """(features, version, desc_num, last_batch_head, used_idx) of a ring's part."""
        return HEADER.unpack_from(self.view, self._part(ring))

    def state(self, head: int, ring: int = 0) -> tuple[int, ...]:
        """(inflight, next, counter) of a descriptor."""
        return STATE.unpack_from(self.view, self._at(head, ring))

    def taken(self, ring: int = 0) -> list[int]:
        """The heads that are recorded as in flight."""
        return [head for head in range(self.message.queue_size) if self.state(head, ring)[0]]

    def note(self, heads: dict[int, int], *, used: int = 0, batch: int = 0) -> None:
        """Write ring 0's part as a crashed back-end leaves it, with a counter for each head."""
        HEADER.pack_into(self.view, 0, 0, 1, self.message.queue_size, batch, used)
        for head, counter in heads.items():
            STATE.pack_into(self.view, self._at(head, 0), 1, 0, counter)

    def link(self, head: int, before: int) -> None:
        """Link ring 0's descriptor to the one that was completed before it."""
        struct.pack_into("<H", self.view, self._at(head, 0) + 6, before)

    def _part(self, ring: int) -> int:
        return ring * (self.message.mmap_size // self.message.num_queues)

    def _at(self, head: int, ring: int) -> int:
        return self._part(ring) + HEADER.size + STATE.size * head


def get_region(be: BackEnd, rings: int = 1, size: int = SIZE) -> Region:
    """GET_INFLIGHT_FD."""
    reply = be.ask(F.GET_INFLIGHT_FD, Inflight(0, 0, rings, size).pack())
    check(len(reply.payload) == 24, "24 bytes in the reply", f"{len(reply.payload)} bytes")
    message = Inflight.unpack(reply.payload)
    if not message.mmap_size:
        unsupported("it does not record requests in flight: mmap size 0")
    check(len(reply.fds) == 1, "one descriptor with the reply", f"{len(reply.fds)}")
    file = os.fstat(reply.fds[0]).st_size
    end = message.mmap_offset + message.mmap_size
    check(end <= file, f"{end} bytes in the file, as the reply says", f"{file} bytes")
    return Region(message, reply.fds[0], mapped(reply.fds[0], message))


def mapped(fd: int, message: Inflight) -> memoryview:
    """The bytes of a region in its file."""
    try:
        return Mapping(fd, message.mmap_offset, message.mmap_size).view
    except MappingError as error:
        raise Failed("a region that can be mapped, shared and writable", f"it {error}") from error


def set_region(be: BackEnd, region: Region) -> None:
    """SET_INFLIGHT_FD, which must be accepted."""
    be.accepted(F.SET_INFLIGHT_FD, region.message.pack(), fds=(region.fd,))


def noted_ring(be: BackEnd) -> tuple[TestRing, Region]:
    """A running ring that is recorded in a region."""
    be.negotiate()
    memory = be.memory()
    region = get_region(be)
    set_region(be, region)
    ring = be.ring(memory, 0, SIZE)
    be.start(ring)
    return ring, region
