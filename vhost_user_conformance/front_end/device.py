"""The device of the suite's back-end."""

from __future__ import annotations

import os
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
    """The device of the suite's back-end, of a class whose requests it does not know.

    Other rings are not served: their requests wait.
    """

    def handles(self, ring: int) -> bool:  # noqa: ARG002
        """Whether it completes this ring's requests."""
        return False

    def do(self, memory: GuestMemory, chain: Chain) -> int:  # noqa: ARG002
        """Carry a request out; the number of bytes written."""
        return 0


class FrameSink(Device):
    """A NIC: frames that the driver sends are completed, and it receives none."""

    def handles(self, ring: int) -> bool:
        """See `Device.handles`."""
        return ring % 2 == 1


class Entropy(Device):
    """An entropy device: its buffers are filled."""

    def handles(self, ring: int) -> bool:  # noqa: ARG002
        """See `Device.handles`."""
        return True

    def do(self, memory: GuestMemory, chain: Chain) -> int:
        """See `Device.do`."""
        written = 0
        for part in chain.parts:
            view = memory.view(part.gpa, part.size)
            if part.writable and view is not None:
                view[:] = os.urandom(part.size)
                written += part.size
        return written


class Disk(Device):
    """A disk that stores what is written."""

    def __init__(self) -> None:
        self._bytes = bytearray(DISK_BYTES)

    def handles(self, ring: int) -> bool:  # noqa: ARG002
        """See `Device.handles`."""
        return True

    def do(self, memory: GuestMemory, chain: Chain) -> int:
        """See `Device.do`."""
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
