"""VU-B-2252 to 2279: frames that a NIC receives.

Received frames are only seen where the back-end sends frames back, as vhost-emu-net does without a
peer, or dpdk-testpmd with one port. Where none comes back these cases are UNSUPPORTED.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from vhost_user.features import VIRTIO_RING_F_INDIRECT_DESC
from vhost_user_conformance.back_end.cases.data_net import area
from vhost_user_conformance.back_end.connection import severity_of_size
from vhost_user_conformance.back_end.nic import MARK, ROOM, frame_of, laid_out, looped
from vhost_user_conformance.back_end.requests import QUIET
from vhost_user_conformance.model.verdict import Failed, check, observed
from vhost_user_conformance.peer.device_work import NET_F_MRG_RXBUF, NET_HEADER
from vhost_user_conformance.peer.memory import MIB

if TYPE_CHECKING:
    from vhost_user_conformance.back_end.connection import BackEnd

_RECEIVE = "virtio 1.3, 5.1.6.4"


@area.each(
    2252, (60, 61, 64, 1000, 1514), "A frame of {} bytes is received unchanged", device="net"
)
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


@area.case(2258, "No offload is used that was not negotiated", device="net", spec=_RECEIVE)
def no_offload(be: BackEnd) -> None:
    header = looped(be).comes_back(frame_of(60))
    check(header[1] == 0, "gso_type 0 (VIRTIO_NET_HDR_GSO_NONE)", f"{header[1]}")
    check(not header[0] & 1, "no VIRTIO_NET_HDR_F_NEEDS_CSUM", f"flags {header[0]:#x}")


@area.case(
    2259,
    "A frame that is sent in many buffers is received unchanged",
    device="net",
    spec="virtio 1.3, 2.7.4",
)
def sent_in_pieces(be: BackEnd) -> None:
    nic = looped(be)
    for number, lengths in enumerate(((NET_HEADER, 14), (4, 8, 20, 1), (10, *(7,) * 12))):
        frame, buffer = frame_of(200, number), nic.offer(ROOM)
        nic.send(frame, lengths)
        nic.checked(buffer, frame)


_ROOMS = {
    "a descriptor of the header only": (NET_HEADER, ROOM),
    "a header in two descriptors": (4, ROOM),
    "many descriptors": (NET_HEADER, *(20,) * 20),
    "exactly the size that it needs": (NET_HEADER + 100,),
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


@area.case(2264, "A frame is received into the buffers of an indirect table", device="net")
def indirect(be: BackEnd) -> None:
    nic = looped(be, VIRTIO_RING_F_INDIRECT_DESC)
    for number in range(5):
        nic.comes_back(frame_of(300, number), NET_HEADER, 100, ROOM, indirect=True)


@area.case(2265, "A frame is received into another region than that of its ring", device="net")
def other_region(be: BackEnd) -> None:
    memory = be.memory(MIB, MIB, share=False)
    nic = looped(be, memory=memory)
    nic.comes_back(frame_of(100), region=1)


@area.case(2266, "Frames are received in the order in which they were sent", device="net")
def in_order(be: BackEnd) -> None:
    nic = looped(be)
    buffers = [nic.offer(256) for _ in range(32)]
    for number in range(32):
        nic.send(frame_of(100, number))
    for number, buffer in enumerate(buffers):
        nic.checked(buffer, frame_of(100, number))


@area.each(
    2267,
    (2, 16, 1024),
    "A receive ring of {} serves while its indices wrap around its size twice",
    device="net",
    severity=severity_of_size,
)
def rounds(be: BackEnd, size: int) -> None:
    nic = looped(be, size=size)
    for number in range(min(2 * size + 1, 600)):
        nic.comes_back(frame_of(60, number), 128)


@area.case(2270, "A receive ring serves where its indices wrap at 65535", device="net")
def wraps(be: BackEnd) -> None:
    nic = looped(be, start=65530)
    for number in range(12):
        nic.comes_back(frame_of(60, number))
    base = be.stop(nic.rx)
    check(base == 7, "base 7 after 13 frames from 65530", f"base {base}")


@area.case(2271, "A frame without a buffer does not block later frames", device="net")
def no_room(be: BackEnd) -> None:
    nic = looped(be)
    for number in range(10):
        nic.send(frame_of(60, 100 + number))
    be.check_idle(nic.rx)
    buffers = [nic.offer(256) for _ in range(12)]
    nic.rx.await_used(nic.rx.used_index + 1, QUIET)
    nic.send(frame_of(60, 7))
    for buffer in buffers:
        if nic.take(buffer)[NET_HEADER:] == frame_of(60, 7):
            return
    raise Failed("the frame that was sent once there were buffers", "other frames only")


@area.case(
    2272, "Nothing is written beyond a buffer that is too small", device="net", spec=_RECEIVE
)
def too_small(be: BackEnd) -> None:
    nic = looped(be)
    memory = nic.memory
    gpa = memory.allocate(4096)
    memory.write(gpa, bytes([MARK]) * 4096)
    nic.rx.driver.add([], [(gpa + 1024, 64)])
    nic.rx.driver.publish()
    nic.rx.kick()
    nic.send(frame_of(1000))
    came = nic.rx.await_used(nic.rx.avail_index, QUIET)
    data = memory.read(gpa, 4096)
    around = data[:1024] + data[1024 + 64 :]
    check(around == bytes([MARK]) * len(around), "nothing outside of the buffer", "bytes are")
    done = nic.rx.driver.pop() if came else None
    check(done is None or done[1] <= 64, "64 bytes at most", f"{done}")
    be.check_responds("after a frame that exceeds the buffer")
    if done is None:
        observed("the buffer is left for a smaller frame")
    observed(f"the buffer is consumed, with {done[1]} bytes in it")


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
    num_buffers: int = struct.unpack_from("<H", data, 10)[0]
    check(num_buffers == count, f"num_buffers {count}", f"{num_buffers}")
    check(data[NET_HEADER:] == frame, "the frame, from buffer to buffer", "something else")


@area.case(2275, "With VIRTIO_NET_F_MRG_RXBUF a frame that fits uses one buffer", device="net")
def mergeable_one(be: BackEnd) -> None:
    header = looped(be, NET_F_MRG_RXBUF).comes_back(frame_of(100))
    count: int = struct.unpack_from("<H", header, 10)[0]
    check(count == 1, "num_buffers 1", f"{count}")


@area.case(2276, "A received frame is followed by a call", device="net")
def called(be: BackEnd) -> None:
    nic = looped(be)
    for number in range(5):
        nic.rx.calls()
        buffer = nic.offer(ROOM)
        nic.send(frame_of(60, number))
        check(nic.rx.await_call(be.timeout), "a call of the receive ring", "none came")
        nic.checked(buffer, frame_of(60, number))


@area.case(
    2277,
    "A disabled ring receives nothing, and receives again once it is enabled",
    device="net",
    spec="Ring states",
)
def disabled(be: BackEnd) -> None:
    nic = looped(be)
    be.enable(nic.rx, on=False)
    be.barrier()
    buffer = nic.offer(ROOM)
    used = nic.rx.used_index
    for number in range(4):
        nic.tx.driver.add(laid_out(nic.memory, bytes(NET_HEADER) + frame_of(60, number), ()), [])
        nic.tx.driver.publish()
        nic.tx.kick()
    be.check_idle(nic.rx, index=used)
    be.enable(nic.rx)
    be.barrier()
    # A frame that was sent meanwhile may have been queued, and arrive now.
    if not nic.rx.await_used(nic.rx.used_index + 1, QUIET):
        nic.send(frame_of(60, 9))
    nic.take(buffer)


@area.case(2278, "No frame is received after GET_VRING_BASE was answered", device="net")
def stopped(be: BackEnd) -> None:
    nic = looped(be)
    buffer = nic.offer(ROOM)
    be.stop(nic.rx)
    used, before = nic.rx.used_index, nic.bytes_of(buffer)
    nic.tx.driver.add(laid_out(nic.memory, bytes(NET_HEADER) + frame_of(60, 1), ()), [])
    nic.tx.driver.publish()
    nic.tx.kick()
    be.check_idle(nic.rx, index=used)
    check(nic.bytes_of(buffer) == before, "the buffer as it was", "it was written to")


@area.case(2279, "The base of a receive ring is the number of received frames", device="net")
def base(be: BackEnd) -> None:
    nic = looped(be)
    for number in range(4):
        nic.comes_back(frame_of(60, number))
    nic.offer(ROOM)  # an unused buffer, which is not counted
    at = be.stop(nic.rx)
    check(at == 5, "base 5 after 5 frames", f"base {at}")


@area.case(
    2297,
    "A ring that is disabled and enabled again receives without a kick",
    device="net",
    spec="Ring states",
)
def enabled_again(be: BackEnd) -> None:
    nic = looped(be)
    buffer = nic.offer(ROOM)
    # A back-end may handle messages before kicks: after two of them it has seen the kick.
    be.barrier()
    be.barrier()
    be.enable(nic.rx, on=False)
    be.enable(nic.rx)
    be.barrier()
    frame = frame_of(60, 9)
    nic.send(frame)
    nic.checked(buffer, frame)
