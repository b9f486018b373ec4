"""Requests for each class of device, by which a case sees whether a ring is served."""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, NamedTuple

from vhost_user_conformance.model.device_class import load, row_of
from vhost_user_conformance.model.verdict import check

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vhost_user_conformance.peer.memory import Memory, TestRing

# The suite has its own definitions of virtio, not those of `vhost_user.virtio`: our endpoints use
# these, and a mistake in them must not become the suite's expectation.
SECTOR = 512
_BLK_HEADER = struct.Struct("<IIQ")
#: virtio 1.3, 5.2.6: types of requests, and the status that means success.
BLK_IN, BLK_OUT, BLK_FLUSH, BLK_GET_ID = 0, 1, 4, 8
BLK_DISCARD, BLK_WRITE_ZEROES = 11, 13
BLK_OK, BLK_UNSUPP = 0, 2
#: virtio 1.3, 5.2.3: feature bits of a disk.
BLK_F_SEG_MAX, BLK_F_RO, BLK_F_BLK_SIZE, BLK_F_FLUSH = 2, 5, 6, 9
BLK_F_CONFIG_WCE, BLK_F_MQ, BLK_F_DISCARD, BLK_F_WRITE_ZEROES = 11, 12, 13, 14
#: virtio 1.3, 5.1.3: feature bits of a NIC.
NET_F_MTU, NET_F_MAC, NET_F_MRG_RXBUF, NET_F_MQ = 3, 5, 15, 22
#: struct virtio_net_hdr with num_buffers, as VIRTIO_F_VERSION_1 has it (virtio 1.3, 5.1.6).
NET_HEADER = 12
FRAME = bytes.fromhex("ffffffffffff02c04f4d000188b5") + bytes(46)
#: fuse.h: FUSE_INIT, and the protocol version that is asked for.
_FUSE_IN_HEADER = struct.Struct("<IIQQIIIHH")
_FUSE_INIT = 26
#: An entropy device's buffers contain this byte before; size of the smallest request.
MARK = 0xEE
RANDOM_BYTES = 64


class Job(NamedTuple):
    """A request to the device: the head of its chain, and the expected completion.

    Attributes:
        head: descriptor index.
        written: bytes that the used element should report as written, or None for any.
        status: guest address of a byte that must become 0, or None.
        buffers: address and size of those that the device fills with random bytes, at least one.
    """

    head: int
    written: int | None
    status: int | None
    buffers: tuple[tuple[int, int], ...] = ()


class Work(ABC):
    """One class of device."""

    #: The ring for requests, and the smallest number of rings that the device needs.
    ring = 0
    rings = 1

    @abstractmethod
    def post(self, memory: Memory, ring: TestRing, *, publish: bool = True) -> Job:
        """Make the smallest request available that changes nothing; do not kick.

        A device may serve it from `publish` on, without a kick. What is to be changed in the
        request, or sent before it is served, comes before that: then ``publish`` is False, and the
        case publishes itself.
        """


class BlkWork(Work):
    """A disk: read its first sector."""

    def post(self, memory: Memory, ring: TestRing, *, publish: bool = True) -> Job:
        """See `Work.post`."""
        return self.request(memory, ring, BLK_IN, 0, write=SECTOR, publish=publish)

    def request(
        self,
        memory: Memory,
        ring: TestRing,
        kind: int,
        sector: int,
        *,
        read: bytes = b"",
        write: int = 0,
        region: int = 0,
        indirect: bool = False,
        publish: bool = True,
    ) -> Job:
        """Any request: ``read`` is what the device reads, ``write`` how many bytes it writes.

        See `Work.post` for ``publish``.
        """
        header = memory.allocate(_BLK_HEADER.size, region=region)
        memory.write(header, _BLK_HEADER.pack(kind, 0, sector))
        status = memory.allocate(1, region=region)
        memory.write(status, b"\xff")
        readable, writable = [(header, _BLK_HEADER.size)], []
        if read:
            data = memory.allocate(len(read), region=region)
            memory.write(data, read)
            readable.append((data, len(read)))
        if write:
            writable.append((memory.allocate(write, region=region), write))
        writable.append((status, 1))
        table = None
        if indirect:
            size = 16 * (len(readable) + len(writable))
            gpa = memory.allocate(size, region=region)
            table = (gpa, memory.view(gpa, size))
        head = ring.driver.add(readable, writable, table)
        if publish:
            ring.driver.publish()
        return Job(head, write + 1, status)

    @staticmethod
    def data_of(memory: Memory, job: Job, size: int) -> bytes:
        """The data of a read; it is next to the status byte, which was allocated first."""
        assert job.status is not None  # noqa: S101  a disk's job has one
        at = -(-(job.status + 1) // 64) * 64
        return memory.read(at, size)


class NetWork(Work):
    """A NIC: send a frame of an EtherType for experiments."""

    ring = 1
    rings = 2

    def post(self, memory: Memory, ring: TestRing, *, publish: bool = True) -> Job:
        """See `Work.post`."""
        data = bytes(NET_HEADER) + FRAME
        gpa = memory.allocate(len(data))
        memory.write(gpa, data)
        head = ring.driver.add([(gpa, len(data))], [])
        if publish:
            ring.driver.publish()
        return Job(head, None, None)


class FsWork(Work):
    """A file system: FUSE_INIT on its first request queue."""

    ring = 1
    rings = 2

    def post(self, memory: Memory, ring: TestRing, *, publish: bool = True) -> Job:
        """See `Work.post`."""
        body = struct.pack("<IIII", 7, 27, 1 << 17, 0)
        length = _FUSE_IN_HEADER.size + len(body)
        asked, answered = memory.allocate(length), memory.allocate(80)
        head = _FUSE_IN_HEADER.pack(length, _FUSE_INIT, 1, 0, 0, 0, 0, 0, 0)
        memory.write(asked, head + body)
        chain = ring.driver.add([(asked, length)], [(answered, 80)])
        if publish:
            ring.driver.publish()
        return Job(chain, None, None)


class RngWork(Work):
    """An entropy device: fill a buffer."""

    def post(self, memory: Memory, ring: TestRing, *, publish: bool = True) -> Job:
        """See `Work.post`."""
        return self.request(memory, ring, (RANDOM_BYTES,), publish=publish)

    def request(
        self,
        memory: Memory,
        ring: TestRing,
        sizes: Sequence[int],
        *,
        regions: Sequence[int] = (0,),
        indirect: bool = False,
        publish: bool = True,
    ) -> Job:
        """A request of buffers of these sizes, in these regions in turn; all bytes are `MARK`."""
        pieces = []
        for number, size in enumerate(sizes):
            gpa = memory.allocate(size, region=regions[number % len(regions)])
            memory.write(gpa, bytes([MARK]) * size)
            pieces.append((gpa, size))
        table = None
        if indirect:
            gpa = memory.allocate(16 * len(pieces))
            table = gpa, memory.view(gpa, 16 * len(pieces))
        head = ring.driver.add([], pieces, table)
        if publish:
            ring.driver.publish()
        return Job(head, None, None, tuple(pieces))

    @staticmethod
    def data_of(memory: Memory, job: Job) -> bytes:
        """All bytes of a request's buffers."""
        return b"".join(memory.read(*piece) for piece in job.buffers)


def check_random(memory: Memory, job: Job, written: int) -> bytes:
    """Check the buffers of a completed request for random bytes (virtio 1.3, 5.4.6.1).

    Args:
        memory: of the guest.
        job: the request.
        written: the length in its used element.

    Returns:
        The random bytes.

    Raises:
        Failed: none was written, or others than the used element reports.
    """
    data = RngWork.data_of(memory, job)
    check(0 < written <= len(data), f"1 to {len(data)} bytes written", f"{written} bytes")
    filled, rest = data[:written], data[written:]
    # 16 random bytes are all equal with a probability of 2^-120.
    for at in range(0, written - 15, 16):
        block = filled[at : at + 16]
        check(len(set(block)) > 1, f"{written} random bytes", f"byte {at} on: {block.hex()}")
    same = rest == bytes([MARK]) * len(rest)
    check(same, f"nothing written behind {written} bytes", "bytes were written there")
    return filled


def work_of(name: str) -> Work | None:
    """The requests for a class of device; None where the class is unknown."""
    row = row_of(name)
    work: Work | None = load(row.work)() if row.work else None
    return work


def least_rings(name: str) -> int:
    """The smallest number of rings that a device of this class needs; 1 of an unknown one."""
    work = work_of(name)
    return 1 if work is None else work.rings
