"""Frames, the rings of a NIC, and a NIC that loops frames back."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from vhost_user.features import VIRTIO_RING_F_EVENT_IDX
from vhost_user_conformance.model.verdict import Failed, check, unsupported
from vhost_user_conformance.peer.device_work import NET_HEADER

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vhost_user_conformance.back_end.connection import BackEnd
    from vhost_user_conformance.peer.memory import Memory, TestRing

#: Indices of the transmit ring and of the receive ring.
TX, RX = 1, 0
#: Header of frames that are safe to send: an unused address, and an EtherType for experiments.
_HEAD = bytes.fromhex("020000000001 02c04f4d0001 88b5")
Pieces = list[tuple[int, int]]


def frame_of(size: int, number: int = 0) -> bytes:
    """A frame of this size that contains its number."""
    body = number.to_bytes(4, "big") + bytes((number + n) & 0xFF for n in range(max(0, size - 18)))
    return (_HEAD + body)[:size]


def sender(
    be: BackEnd, *bits: int, size: int = 64, start: int = 0, memory: Memory | None = None
) -> TestRing:
    """A running transmit ring, with these feature bits.

    Raises:
        Unsupported: one of them is not offered.
    """
    events = VIRTIO_RING_F_EVENT_IDX in bits
    memory = be.negotiate_bits(*bits).shared(memory)
    ring = be.ring(memory, TX, size, start=start, event_idx=events)
    be.start(ring)
    return ring


def laid_out(memory: Memory, data: bytes, lengths: Sequence[int], region: int = 0) -> Pieces:
    """These bytes in buffers of these lengths, and the rest in one more."""
    pieces, at = [], 0
    for length in (*lengths, len(data) - sum(lengths)):
        if length:
            gpa = memory.allocate(length, region=region)
            memory.write(gpa, data[at : at + length])
            pieces.append((gpa, length))
            at += length
    return pieces


def send(
    be: BackEnd, ring: TestRing, pieces: Pieces, table: tuple[int, memoryview] | None = None
) -> None:
    """Send these buffers, and wait until they are completed."""
    index = ring.used_index + 1
    head = ring.driver.add(pieces, [], table)
    ring.driver.publish()
    ring.kick()
    be.await_used(ring, index)
    back(ring, head)


def back(ring: TestRing, head: int) -> None:
    """Take the completion of this transmit chain, with nothing written."""
    done = ring.driver.pop()
    if done is None:
        raise Failed("a completion in the used ring", "there is none")
    check(done[0] == head, f"chain {head} in the used element", f"chain {done[0]}")
    check(done[1] == 0, "0 bytes written to transmit buffers", f"{done[1]} bytes")


ROOM = 2048
MARK = 0xEE
_LOOK = 0.005
#: Number of the probe frame, which no case sends.
_PROBE = 0xFFFF
_TRIES = 4


class Buffer(NamedTuple):
    """A buffer for a frame: head of its chain, and address and length of each descriptor."""

    head: int
    pieces: list[tuple[int, int]]


class Nic(NamedTuple):
    """Both rings of a NIC that sends frames back."""

    be: BackEnd
    memory: Memory
    rx: TestRing
    tx: TestRing

    def offer(self, *lengths: int, region: int = 0, indirect: bool = False) -> Buffer:
        """Make a buffer of descriptors of these lengths available, and kick."""
        memory = self.memory
        pieces = [(memory.allocate(length, region=region), length) for length in lengths]
        for gpa, length in pieces:
            memory.write(gpa, bytes([MARK]) * length)
        table = None
        if indirect:
            gpa = memory.allocate(16 * len(pieces))
            table = gpa, memory.view(gpa, 16 * len(pieces))
        head = self.rx.driver.add([], pieces, table)
        self.rx.driver.publish()
        self.rx.kick()
        return Buffer(head, pieces)

    def send(self, frame: bytes, lengths: Sequence[int] = ()) -> None:
        """Send a frame in buffers of these lengths and one more, and wait for the completion."""
        index = self.tx.used_index + 1
        self.tx.driver.add(laid_out(self.memory, bytes(NET_HEADER) + frame, lengths), [])
        self.tx.driver.publish()
        self.tx.kick()
        self.be.await_used(self.tx, index)
        self.tx.driver.pop()

    def take(self, buffer: Buffer) -> bytes:
        """The bytes received into this buffer, which is the next one to complete.

        Raises:
            Failed: it is not completed, or another one is, or bytes beyond the frame were written.
        """
        deadline = time.monotonic() + self.be.timeout
        while not self._came and time.monotonic() < deadline:
            self.rx.await_call(_LOOK)  # not each completion needs a call
        done = self.rx.driver.pop()
        if done is None:
            raise Failed("a completion in the receive ring", "there is none")
        head, written = done
        check(head == buffer.head, f"chain {buffer.head} in the used element", f"chain {head}")
        data = self.bytes_of(buffer)
        check(written <= len(data), f"{len(data)} bytes at most", f"{written} bytes written")
        rest = data[written:]
        check(rest == bytes([MARK]) * len(rest), "nothing written after the frame", "bytes are")
        return data[:written]

    @property
    def _came(self) -> bool:
        """Whether there is a completion that was not taken yet."""
        return self.rx.driver.in_flight > (self.rx.avail_index - self.rx.used_index & 0xFFFF)

    def bytes_of(self, buffer: Buffer) -> bytes:
        """All bytes of a buffer."""
        return b"".join(self.memory.read(*piece) for piece in buffer.pieces)

    def comes_back(
        self, frame: bytes, *lengths: int, region: int = 0, indirect: bool = False
    ) -> bytes:
        """Offer a buffer, send a frame, and check that it is received; its header."""
        buffer = self.offer(*(lengths or (ROOM,)), region=region, indirect=indirect)
        self.send(frame)
        return self.checked(buffer, frame)

    def checked(self, buffer: Buffer, frame: bytes) -> bytes:
        """Take a buffer, and check that it holds this frame; its header."""
        data = self.take(buffer)
        got = data[NET_HEADER:]
        wanted = NET_HEADER + len(frame)
        check(len(data) == wanted, f"{wanted} bytes, header and frame", f"{len(data)} bytes")
        check(got == frame, f"the frame {frame[:24].hex()}...", f"{got[:24].hex()}...")
        return data[:NET_HEADER]


def set_up_nic(
    be: BackEnd, *bits: int, size: int = 64, start: int = 0, memory: Memory | None = None
) -> Nic:
    """Set both rings up with these feature bits, without enabling them."""
    events = VIRTIO_RING_F_EVENT_IDX in bits
    memory = be.negotiate_bits(*bits).shared(memory)
    rx = be.ring(memory, RX, size, start=start, event_idx=events)
    tx = be.ring(memory, TX, 64, event_idx=events)
    for ring in (rx, tx):
        be.set_up(ring)
    return Nic(be, memory, rx, tx)


def looped(
    be: BackEnd, *bits: int, size: int = 64, start: int = 0, memory: Memory | None = None
) -> Nic:
    """Start both rings with these feature bits, and check that a frame comes back.

    Raises:
        Unsupported: no frame comes back, or one of the bits is not offered.
    """
    nic = set_up_nic(be, *bits, size=size, start=start, memory=memory)
    rx = nic.rx
    for ring in (rx, nic.tx):
        be.enable(ring)
    be.barrier()
    probe = nic.offer(ROOM)
    for _ in range(_TRIES):
        nic.send(frame_of(60, _PROBE))
        if rx.await_used(start + 1, be.timeout / (2 * _TRIES)):
            break
    else:
        unsupported("the back-end does not send frames back")
    nic.checked(probe, frame_of(60, _PROBE))
    return nic
