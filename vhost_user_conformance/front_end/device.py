"""The device of the suite's back-end."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from vhost_user_conformance.peer.device_work import (
    BLK_FLUSH,
    BLK_GET_ID,
    BLK_IN,
    BLK_OK,
    BLK_OUT,
    BLK_UNSUPP,
)

if TYPE_CHECKING:
    from vhost_user_conformance.front_end.guest_memory import GuestMemory
    from vhost_user_conformance.front_end.ring import Chain

SECTOR = 512
DISK_BYTES = 1 << 20
#: The disk's response to GET_ID (virtio 1.3, 5.2.6: 20 bytes).
_SERIAL = b"conformance".ljust(20, b"\0")


class Device:
    """A disk that stores the data written to it, or a NIC that discards frames.

    Other rings are not served: their requests wait.
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._bytes = bytearray(DISK_BYTES)

    def handles(self, ring: int) -> bool:
        """Whether it completes this ring's requests."""
        return self._kind == "blk" or (self._kind == "net" and ring % 2 == 1)

    def do(self, memory: GuestMemory, chain: Chain) -> int:
        """Carry out a request. Returns the number of bytes written to guest memory."""
        return self._disk(memory, chain) if self._kind == "blk" else 0

    def _disk(self, memory: GuestMemory, chain: Chain) -> int:
        views = [(memory.view(part.gpa, part.size), part.writable) for part in chain.parts]
        readable = b"".join(view for view, writable in views if view is not None and not writable)
        room = [view for view, writable in views if view is not None and writable]
        if len(readable) < 16 or not room or not room[-1]:
            return 0
        kind, _, sector = struct.unpack_from("<IIQ", readable)
        at, status = sector * SECTOR, BLK_OK
        # The last byte is the status; data may precede it in the same descriptor.
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
