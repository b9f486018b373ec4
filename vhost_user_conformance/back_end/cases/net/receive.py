"""VU-B-2252 to 2279: what a NIC gives its driver.

Frames are only seen where the back-end sends back what it is given, as ours does when it is alone,
or dpdk-testpmd with one port. Where none comes back these cases say UNSUPPORTED.
"""

from __future__ import annotations

import struct
import time
from typing import TYPE_CHECKING, NamedTuple

from vhost_user.features import F_RING_EVENT_IDX, F_RING_INDIRECT_DESC
from vhost_user_conformance.back_end.cases.net.transmit import (
    RX,
    TX,
    area,
    frame_of,
    laid_out,
)
from vhost_user_conformance.back_end.requests import QUIET
from vhost_user_conformance.model.verdict import (
    Failed,
    check,
    observed,
    unsupported,
)
from vhost_user_conformance.peer.device_work import NET_F_MRG_RXBUF, NET_HEADER
from vhost_user_conformance.peer.memory import MIB, Memory, TestRing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vhost_user_conformance.back_end.connection import BackEnd

__all__ = ["area"]

_ROOM = 2048
_MARK = 0xEE
_LOOK = 0.005
#: The probe's number: no case sends it.
_PROBE = 0xFFFF
_TRIES = 4
_RECEIVE = "virtio 1.3, 5.1.6.4"


class Buffer(NamedTuple):
    """Room for a frame: its chain, and where its bytes are to come."""

    head: int
    pieces: list[tuple[int, int]]


class Nic(NamedTuple):
    """Both rings of a NIC that sends frames back."""

    be: BackEnd
    memory: Memory
    rx: TestRing
    tx: TestRing

    def offer(self, *lengths: int, region: int = 0, indirect: bool = False) -> Buffer:
        """Make a buffer available, in these pieces, and kick."""
        memory = self.memory
        pieces = [(memory.allocate(length, region=region), length) for length in lengths]
        for gpa, length in pieces:
            memory.write(gpa, bytes([_MARK]) * length)
        table = None
        if indirect:
            gpa = memory.allocate(16 * len(pieces))
            table = gpa, memory.view(gpa, 16 * len(pieces))
        head = self.rx.driver.add([], pieces, table)
        self.rx.driver.publish()
        self.rx.kick()
        return Buffer(head, pieces)

    def send(self, frame: bytes, lengths: Sequence[int] = ()) -> None:
        """Send a frame, in buffers of these lengths first, and wait until they are back."""
        index = self.tx.used_index + 1
        self.tx.driver.add(laid_out(self.memory, bytes(NET_HEADER) + frame, lengths), [])
        self.tx.driver.publish()
        self.tx.kick()
        self.be.await_used(self.tx, index)
        self.tx.driver.pop()

    def take(self, buffer: Buffer) -> bytes:
        """What has come into this buffer, which is the next one that comes back.

        Raises:
            Failed: nothing has, or into another one, or what is behind it was written to.
        """
        until = time.monotonic() + self.be.patience
        while not self._came and time.monotonic() < until:
            self.rx.await_call(_LOOK)  # a call tells of most completions, but none is owed
        done = self.rx.driver.pop()
        if done is None:
            raise Failed("a completion in the ring that receives", "there is none")
        head, written = done
        check(head == buffer.head, f"chain {buffer.head} in the used element", f"chain {head}")
        data = self.bytes_of(buffer)
        check(written <= len(data), f"{len(data)} bytes at most", f"{written} bytes written")
        rest = data[written:]
        check(rest == bytes([_MARK]) * len(rest), "nothing written behind the frame", "bytes are")
        return data[:written]

    @property
    def _came(self) -> bool:
        """Whether something has come back that was not taken yet."""
        return self.rx.driver.in_flight > (self.rx.avail_index - self.rx.used_index & 0xFFFF)

    def bytes_of(self, buffer: Buffer) -> bytes:
        """All bytes of a buffer."""
        return b"".join(self.memory.read(*piece) for piece in buffer.pieces)

    def comes_back(
        self, frame: bytes, *lengths: int, region: int = 0, indirect: bool = False
    ) -> bytes:
        """Offer a buffer, send a frame, and check that the same comes: its header."""
        buffer = self.offer(*(lengths or (_ROOM,)), region=region, indirect=indirect)
        self.send(frame)
        return self.checked(buffer, frame)

    def checked(self, buffer: Buffer, frame: bytes) -> bytes:
        """Take a buffer, and check that it holds this frame: its header."""
        data = self.take(buffer)
        got = data[NET_HEADER:]
        wanted = NET_HEADER + len(frame)
        check(len(data) == wanted, f"{wanted} bytes, header and frame", f"{len(data)} bytes")
        check(got == frame, f"the frame {frame[:24].hex()}...", f"{got[:24].hex()}...")
        return data[:NET_HEADER]


def set_up_nic(
    be: BackEnd, *bits: int, size: int = 64, start: int = 0, memory: Memory | None = None
) -> Nic:
    """Set both rings up, with these feature bits, and enable neither."""
    events = F_RING_EVENT_IDX in bits
    memory = be.agree_bits(*bits).shared(memory)
    rx = be.ring(memory, RX, size, start=start, event_idx=events)
    tx = be.ring(memory, TX, 64, event_idx=events)
    for ring in (rx, tx):
        be.set_up(ring)
    return Nic(be, memory, rx, tx)


def looped(
    be: BackEnd, *bits: int, size: int = 64, start: int = 0, memory: Memory | None = None
) -> Nic:
    """Start both rings, with these feature bits, and see that a frame comes back.

    Raises:
        Unsupported: none does, or one of the bits is not offered.
    """
    nic = set_up_nic(be, *bits, size=size, start=start, memory=memory)
    rx = nic.rx
    for ring in (rx, nic.tx):
        be.enable(ring)
    be.barrier()
    probe = nic.offer(_ROOM)
    for _ in range(_TRIES):
        nic.send(frame_of(60, _PROBE))
        if rx.await_used(start + 1, be.patience / (2 * _TRIES)):
            break
    else:
        unsupported("is about frames that come back, and from this one none do")
    nic.checked(probe, frame_of(60, _PROBE))
    return nic


@area.each(2252, (60, 61, 64, 1000, 1514), "A frame of {} bytes is received as it is", device="net")
def sizes(be: BackEnd, size: int) -> None:
    nic = looped(be)
    for number in range(3):
        nic.comes_back(frame_of(size, number))


@area.case(
    2257,
    "Without VIRTIO_NET_F_MRG_RXBUF num_buffers is 1",
    device="net",
    spec="virtio 1.3, 5.1.6.4.1",
)
def num_buffers(be: BackEnd) -> None:
    header = looped(be).comes_back(frame_of(60))
    count: int = struct.unpack_from("<H", header, 10)[0]
    check(count == 1, "num_buffers 1", f"{count}")


@area.case(2258, "No offload is told of that was not agreed on", device="net", spec=_RECEIVE)
def no_offload(be: BackEnd) -> None:
    header = looped(be).comes_back(frame_of(60))
    check(header[1] == 0, "gso_type 0 (VIRTIO_NET_HDR_GSO_NONE)", f"{header[1]}")
    check(not header[0] & 1, "no VIRTIO_NET_HDR_F_NEEDS_CSUM", f"flags {header[0]:#x}")


@area.case(
    2259,
    "A frame that is sent in many pieces is received as it is",
    device="net",
    spec="virtio 1.3, 2.7.4",
)
def sent_in_pieces(be: BackEnd) -> None:
    nic = looped(be)
    for number, lengths in enumerate(((NET_HEADER, 14), (4, 8, 20, 1), (10, *(7,) * 12))):
        frame, buffer = frame_of(200, number), nic.offer(_ROOM)
        nic.send(frame, lengths)
        nic.checked(buffer, frame)


_ROOMS = {
    "the header apart": (NET_HEADER, _ROOM),
    "a header in two": (4, _ROOM),
    "many pieces": (NET_HEADER, *(20,) * 20),
    "no byte more than it needs": (NET_HEADER + 100,),
}


@area.each(
    2260,
    _ROOMS,
    "A frame is received into a buffer with {}",
    device="net",
    spec="virtio 1.3, 2.7.4",
)
def rooms(be: BackEnd, name: str) -> None:
    nic = looped(be)
    nic.comes_back(frame_of(100, 5), *_ROOMS[name])


@area.case(2264, "A frame is received into an indirect table's buffers", device="net")
def indirect(be: BackEnd) -> None:
    nic = looped(be, F_RING_INDIRECT_DESC)
    for number in range(5):
        nic.comes_back(frame_of(300, number), NET_HEADER, 100, _ROOM, indirect=True)


@area.case(2265, "A frame is received into another region than its ring's", device="net")
def other_region(be: BackEnd) -> None:
    memory = be.memory(MIB, MIB, share=False)
    nic = looped(be, memory=memory)
    nic.comes_back(frame_of(100), region=1)


@area.case(2266, "Frames come in the order in which they were sent", device="net")
def in_order(be: BackEnd) -> None:
    nic = looped(be)
    buffers = [nic.offer(256) for _ in range(32)]
    for number in range(32):
        nic.send(frame_of(100, number))
    for number, buffer in enumerate(buffers):
        nic.checked(buffer, frame_of(100, number))


@area.each(2267, (2, 16, 1024), "A ring of {} that receives is gone round twice", device="net")
def rounds(be: BackEnd, size: int) -> None:
    nic = looped(be, size=size)
    for number in range(min(2 * size + 1, 600)):
        nic.comes_back(frame_of(60, number), 128)


@area.case(2270, "A ring that receives goes on across 65535", device="net")
def wraps(be: BackEnd) -> None:
    nic = looped(be, start=65530)
    for number in range(12):
        nic.comes_back(frame_of(60, number))
    base = be.stop(nic.rx)
    check(base == 7, "base 7 after 13 frames from 65530", f"base {base}")


@area.case(2271, "A frame that finds no room does not hold up those that come later", device="net")
def no_room(be: BackEnd) -> None:
    nic = looped(be)
    for number in range(10):
        nic.send(frame_of(60, 100 + number))
    be.idle(nic.rx)
    buffers = [nic.offer(256) for _ in range(12)]
    nic.rx.await_used(nic.rx.used_index + 1, QUIET)
    nic.send(frame_of(60, 7))
    for buffer in buffers:
        if nic.take(buffer)[NET_HEADER:] == frame_of(60, 7):
            return
    raise Failed("the frame that was sent once there was room", "others only")


@area.case(2272, "A buffer that is too small is not written beyond", device="net", spec=_RECEIVE)
def too_small(be: BackEnd) -> None:
    nic = looped(be)
    memory = nic.memory
    gpa = memory.allocate(4096)
    memory.write(gpa, bytes([_MARK]) * 4096)
    nic.rx.driver.add([], [(gpa + 1024, 64)])
    nic.rx.driver.publish()
    nic.rx.kick()
    index = nic.rx.used_index + 1
    nic.send(frame_of(1000))
    came = nic.rx.await_used(index, QUIET)
    data = memory.read(gpa, 4096)
    around = data[:1024] + data[1024 + 64 :]
    check(around == bytes([_MARK]) * len(around), "nothing outside of the buffer", "bytes are")
    done = nic.rx.driver.pop() if came else None
    check(done is None or done[1] <= 64, "64 bytes at most", f"{done}")
    be.alive("after a frame that does not fit")
    if done is None:
        observed("the buffer is left for a smaller frame")
    observed(f"the buffer is used up, with {done[1]} bytes in it")


@area.each(
    2273,
    (100, 600),
    "With VIRTIO_NET_F_MRG_RXBUF a frame is spread over buffers of {} bytes",
    device="net",
    spec=_RECEIVE,
)
def mergeable(be: BackEnd, room: int) -> None:
    nic = looped(be, NET_F_MRG_RXBUF)
    frame = frame_of(1514, 3)
    before = nic.rx.used_index
    count = -(-(NET_HEADER + len(frame)) // room)
    buffers = [nic.offer(room) for _ in range(count + 2)]
    nic.send(frame)
    be.await_used(nic.rx, before + count)
    data = b"".join(nic.take(buffer) for buffer in buffers[:count])
    told: int = struct.unpack_from("<H", data, 10)[0]
    check(told == count, f"num_buffers {count}", f"{told}")
    check(data[NET_HEADER:] == frame, "the frame, from buffer to buffer", "something else")


@area.case(2275, "With VIRTIO_NET_F_MRG_RXBUF a frame that fits takes one buffer", device="net")
def mergeable_one(be: BackEnd) -> None:
    header = looped(be, NET_F_MRG_RXBUF).comes_back(frame_of(100))
    count: int = struct.unpack_from("<H", header, 10)[0]
    check(count == 1, "num_buffers 1", f"{count}")


@area.case(2276, "A frame that is received is called for", device="net")
def called(be: BackEnd) -> None:
    nic = looped(be)
    for number in range(5):
        nic.rx.calls()
        buffer = nic.offer(_ROOM)
        nic.send(frame_of(60, number))
        check(nic.rx.await_call(be.patience), "a call of the ring that receives", "none came")
        nic.checked(buffer, frame_of(60, number))


@area.case(
    2277,
    "A ring that is disabled receives nothing; enabled again it does",
    device="net",
    spec="Ring states",
)
def disabled(be: BackEnd) -> None:
    nic = looped(be)
    be.enable(nic.rx, on=False)
    be.barrier()
    buffer = nic.offer(_ROOM)
    used = nic.rx.used_index
    for number in range(4):
        nic.tx.driver.add(laid_out(nic.memory, bytes(NET_HEADER) + frame_of(60, number), ()), [])
        nic.tx.driver.publish()
        nic.tx.kick()
    be.idle(nic.rx, index=used)
    be.enable(nic.rx)
    be.barrier()
    # A frame that was sent meanwhile may have waited elsewhere, and come now.
    if not nic.rx.await_used(nic.rx.used_index + 1, QUIET):
        nic.send(frame_of(60, 9))
    nic.take(buffer)


@area.case(2278, "Nothing is received once GET_VRING_BASE was answered", device="net")
def stopped(be: BackEnd) -> None:
    nic = looped(be)
    buffer = nic.offer(_ROOM)
    be.stop(nic.rx)
    used, before = nic.rx.used_index, nic.bytes_of(buffer)
    nic.tx.driver.add(laid_out(nic.memory, bytes(NET_HEADER) + frame_of(60, 1), ()), [])
    nic.tx.driver.publish()
    nic.tx.kick()
    be.idle(nic.rx, index=used)
    check(nic.bytes_of(buffer) == before, "the buffer as it was", "it was written to")


@area.case(2279, "The base of a ring that receives counts the frames that came", device="net")
def base(be: BackEnd) -> None:
    nic = looped(be)
    for number in range(4):
        nic.comes_back(frame_of(60, number))
    nic.offer(_ROOM)  # which is not used, and not counted
    at = be.stop(nic.rx)
    check(at == 5, "base 5 after 5 frames", f"base {at}")


@area.case(
    2297,
    "A ring that is disabled and enabled again receives, and needs no kick for it",
    device="net",
    spec="Ring states",
)
def enabled_again(be: BackEnd) -> None:
    nic = looped(be)
    buffer = nic.offer(_ROOM)
    # A back-end may serve messages before kicks: two of them, and the kick has been heard.
    be.barrier()
    be.barrier()
    be.enable(nic.rx, on=False)
    be.enable(nic.rx)
    be.barrier()
    frame = frame_of(60, 9)
    nic.send(frame)
    nic.checked(buffer, frame)
