"""Frames of a NIC that come back to it, by a compiled function, many in one call."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from backends.limits import COMPILED_BUDGET, COMPILED_BYTES
from backends.ring_service import NOTIFY, NOTIFY_OTHER, SERVED, Served
from vhost_user import native

if TYPE_CHECKING:
    from vhost_user.virtqueue.batch import Batch

#: ``struct vu_nic``.
_NIC = struct.Struct("=4Q16s")


class Returned(NamedTuple):
    """What a call has done.

    Attributes:
        served: how it has ended.
        notify_tx: the driver wants an interrupt of the transmit ring.
        notify_rx: and of the receive ring.
    """

    served: Served
    notify_tx: bool
    notify_rx: bool


class NicBatch:
    """A NIC, for the compiled function.

    Args:
        counters: of its device.
    """

    def __init__(self, counters: memoryview) -> None:
        self._data = bytearray(_NIC.size)
        if not native.available:
            return
        self._counters = native.address_of(counters)
        self._keep = native.ffi.from_buffer(self._data), counters
        self._nic = native.ffi.cast("vu_nic *", self._keep[0])

    def set_header(self, header: bytes, shortest: int, longest: int) -> None:
        """The header of frames that come back.

        Args:
            header: its bytes; that of frames that are sent has as many.
            shortest: bytes of the shortest frame, without the header.
            longest: those of the longest one that the function takes.
        """
        if native.available:
            size = len(header)
            _NIC.pack_into(
                self._data, 0, size, size + shortest, size + longest, self._counters, header
            )

    def serve(self, tx: Batch, rx: Batch) -> Returned:
        """Return the frames of a transmit ring; take back both rings, which were lent."""
        result: int = native.lib.vu_nic_return(
            tx.pointer, rx.pointer, self._nic, COMPILED_BUDGET, COMPILED_BYTES
        )
        tx.end()
        rx.end()
        served = SERVED[result & ~(NOTIFY | NOTIFY_OTHER)]
        return Returned(served, bool(result & NOTIFY), bool(result & NOTIFY_OTHER))
