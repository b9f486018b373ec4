"""Whether a disk may be overwritten: it is read through the device, and must be all zeroes.

The cases write to the disk that the back-end serves, and so does the guest of ``emu attach``. Both
refuse a disk that holds data unless ``--scratch`` is given.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from vhost_user.errors import BackendError
from vhost_user.features import ProtocolFeature
from vhost_user_conformance.back_end.connection import BackEnd, F
from vhost_user_conformance.errors import PeerError
from vhost_user_conformance.model.verdict import CaseEnd
from vhost_user_conformance.peer.device_work import BLK_IN, SECTOR
from vhost_user_conformance.peer.memory import MIB
from vhost_user_conformance.peer.wire import WireError

if TYPE_CHECKING:
    from vhost_user_conformance.peer.memory import Memory, TestRing

#: Bytes of the largest disk that is read in full; a larger one counts as one that holds data.
LARGEST = 1024 * MIB
#: Bytes of one read.
_STEP = 256 * 1024
#: Reads that are in flight at once.
_AT_ONCE = 8
_ZEROES = bytes(_STEP)
_HEADER = struct.Struct("<IIQ")
_WHAT_TO_DO = "serve a zeroed disk, or give --scratch if its contents may be overwritten"


class DiskContentsError(PeerError):
    """The disk holds data, or may hold data; the text has advice."""

    def __init__(self, why: str) -> None:
        super().__init__(f"{why}; {_WHAT_TO_DO}")


def check_zeroes(be: BackEnd) -> None:
    """Read the whole disk on this connection, and return if each byte is zero.

    Args:
        be: connected, nothing is negotiated yet. Its ring is stopped afterwards.

    Raises:
        DiskContentsError: a byte is not zero, the disk is larger than `LARGEST`, or it cannot be
            read.
    """
    try:
        ring = be.working_ring()
        check_disk(ring, _capacity(be), be.timeout)
        be.stop_all()
    except (CaseEnd, WireError, BackendError) as error:
        raise _unknown(error) from None


def check_disk(ring: TestRing, size: int, timeout: float) -> None:
    """Read the whole disk through a ring, and return if each byte is zero.

    Args:
        ring: it is started, in memory that has room for a few MiB more.
        size: bytes of the disk.
        timeout: seconds for the reads that are in flight at once.

    Raises:
        DiskContentsError: as `check_zeroes`.
        BackendError: the device has completed what was not in flight.
    """
    if size > LARGEST:
        raise DiskContentsError(
            f"the disk has {size / MIB:.6g} MiB, and whether it holds data is only found out up to "
            f"{LARGEST // MIB} MiB"
        )
    _read_all(ring, size, timeout)


def _unknown(why: object) -> DiskContentsError:
    return DiskContentsError(f"cannot find out whether the disk holds data ({why})")


def _capacity(be: BackEnd) -> int:
    """Bytes of the disk: virtio 1.3, 5.2.4, begins with the number of sectors."""
    if ProtocolFeature.CONFIG not in be.acked:
        raise _unknown("CONFIG is not offered")
    reply = be.ask(F.GET_CONFIG, struct.pack("<III", 0, 8, 0) + bytes(8))
    if len(reply.payload) < 20:
        raise _unknown("no capacity")
    sectors: int = struct.unpack_from("<Q", reply.payload, 12)[0]
    return sectors * SECTOR


class _Read:
    """One read request: its buffers, which are used again and again."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._header, self._status = memory.allocate(_HEADER.size), memory.allocate(1)
        self._data = memory.allocate(_STEP)
        self._view = memory.view(self._data, _STEP)
        self._at = self._length = 0

    def post(self, ring: TestRing, at: int, length: int) -> None:
        """Make it available; do not kick."""
        self._at, self._length = at, length
        self._memory.write(self._header, _HEADER.pack(BLK_IN, 0, at // SECTOR))
        self._memory.write(self._status, b"\xff")
        # A read that succeeds and transfers nothing must not look like zeroes.
        self._view[:length] = b"\xff" * length
        ring.driver.add([(self._header, _HEADER.size)], [(self._data, length), (self._status, 1)])

    def check(self) -> None:
        """Raises `DiskContentsError` if it failed, or has brought other bytes than zeroes."""
        status = self._memory.read(self._status, 1)[0]
        if status:
            raise _unknown(f"status {status} of a read at sector {self._at // SECTOR}")
        data = self._view[: self._length]
        if data != _ZEROES[: self._length]:
            first = next(n for n, byte in enumerate(data) if byte)
            raise DiskContentsError(f"the disk holds data, first at byte {self._at + first}")


def _read_all(ring: TestRing, size: int, timeout: float) -> None:
    reads = [_Read(ring.memory) for _ in range(_AT_ONCE)]
    ranges = [(at, min(_STEP, size - at)) for at in range(0, size, _STEP)]
    for first in range(0, len(ranges), _AT_ONCE):
        batch = list(zip(reads, ranges[first : first + _AT_ONCE], strict=False))
        for read, (at, length) in batch:
            read.post(ring, at, length)
        ring.driver.publish()
        ring.kick()
        if not ring.await_used(ring.avail_index, timeout):
            raise _unknown(f"a read has not completed after {timeout:g} s")
        while ring.driver.pop() is not None:
            pass
        for read, _ in batch:
            read.check()
