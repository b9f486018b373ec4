"""VU-B-2201 to 2250: frames that a NIC sends, valid and invalid.

Sent or dropped, a frame's buffers must be completed: these cases check no more than that. The
module `receive` checks the frames, where a NIC sends them back.
"""

from __future__ import annotations

import struct
from functools import partial
from typing import TYPE_CHECKING

from vhost_user.features import VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC
from vhost_user_conformance.back_end.cases.data_net import area
from vhost_user_conformance.back_end.connection import severity_of_size
from vhost_user_conformance.back_end.malformed_driver import (
    INDIRECT,
    NEXT,
    WRITE,
    kick_if_asked,
    kick_if_late,
    spoil,
    survives,
)
from vhost_user_conformance.back_end.nic import (
    Pieces,
    back,
    frame_of,
    laid_out,
    send,
    sender,
)
from vhost_user_conformance.back_end.requests import QUIET
from vhost_user_conformance.model.verdict import Severity, check, observed
from vhost_user_conformance.peer.device_work import NET_HEADER
from vhost_user_conformance.peer.memory import MIB, Memory, TestRing
from vhost_user_conformance.peer.wire import WireError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vhost_user_conformance.back_end.connection import BackEnd


def _whole(frame: bytes) -> bytes:
    return bytes(NET_HEADER) + frame


@area.each(2201, (14, 60, 64, 1514), "A frame of {} bytes is completed", device="net")
def sizes(be: BackEnd, size: int) -> None:
    ring = sender(be)
    send(be, ring, laid_out(ring.memory, _whole(frame_of(size)), ()))


_LAYOUTS = {
    "the header alone in the first one": (NET_HEADER,),
    "the header in two": (4, 8),
    "the header in twelve": (1,) * 12,
    "the last byte of the header in the frame's buffer": (11,),
    "three parts": (NET_HEADER, 14),
    "many of one byte each": (NET_HEADER, *(1,) * 40),
}


@area.each(
    2205,
    _LAYOUTS,
    "A frame in buffers with {} is completed",
    device="net",
    spec="virtio 1.3, 2.7.4",
)
def layouts(be: BackEnd, name: str) -> None:
    ring = sender(be)
    send(be, ring, laid_out(ring.memory, _whole(frame_of(100)), _LAYOUTS[name]))


@area.each(
    2211, (4, 64, 256), "A chain of all {} descriptors of its ring is completed", device="net"
)
def longest_chain(be: BackEnd, size: int) -> None:
    ring = sender(be, size=size)
    for number in range(3):
        data = _whole(frame_of(1514, number))
        pieces = laid_out(ring.memory, data, (NET_HEADER, *(4,) * (size - 2)))
        check(len(pieces) == size, f"{size} pieces", f"{len(pieces)}")
        send(be, ring, pieces)


@area.each(
    2214,
    (1, 2, 16),
    "A frame in {} buffers of an indirect table is completed",
    device="net",
    spec="virtio 1.3, 2.7.5.3",
)
def indirect(be: BackEnd, parts: int) -> None:
    ring = sender(be, VIRTIO_RING_F_INDIRECT_DESC)
    memory = ring.memory
    for number in range(ring.size + 3):
        data = _whole(frame_of(80, number))
        pieces = laid_out(memory, data, ((NET_HEADER, *(2,) * (parts - 2)) if parts > 1 else ()))
        gpa = memory.allocate(16 * len(pieces))
        send(be, ring, pieces, (gpa, memory.view(gpa, 16 * len(pieces))))


@area.case(2217, "Direct and indirect chains may be mixed", device="net")
def mixed(be: BackEnd) -> None:
    ring = sender(be, VIRTIO_RING_F_INDIRECT_DESC)
    memory = ring.memory
    for number in range(20):
        pieces = laid_out(memory, _whole(frame_of(80, number)), (NET_HEADER,))
        gpa = memory.allocate(32)
        send(be, ring, pieces, (gpa, memory.view(gpa, 32)) if number % 2 else None)


@area.case(2218, "Header and frame may lie in different regions", device="net")
def regions(be: BackEnd) -> None:
    memory = be.memory(MIB, MIB, MIB, share=False)
    ring = sender(be, memory=memory)
    for first, second in ((1, 2), (2, 1), (0, 2)):
        header = laid_out(memory, bytes(NET_HEADER), (), region=first)
        send(be, ring, header + laid_out(memory, frame_of(60), (), region=second))


@area.case(
    2219,
    "A buffer that spans two adjacent regions is completed",
    severity=Severity.SHOULD,
    device="net",
)
def across(be: BackEnd) -> None:
    memory = Memory((2 * MIB, MIB), gap=0)
    be.own(memory.close)
    ring = sender(be, memory=memory)
    edge = memory.regions[1].gpa
    memory.write(edge - 20, bytes(20))
    memory.write(edge, frame_of(80)[8:])
    send(be, ring, [(edge - 20, NET_HEADER + 80)])
    send(be, ring, laid_out(memory, _whole(frame_of(60)), ()))


@area.each(
    2220,
    (2, 4, 32, 1024),
    "A ring of {} descriptors serves while its indices wrap around its size twice",
    device="net",
    severity=severity_of_size,
)
def rounds(be: BackEnd, size: int) -> None:
    ring = sender(be, size=size)
    pieces = laid_out(ring.memory, _whole(frame_of(60)), ())
    for _ in range(2 * size + 1):
        send(be, ring, pieces)


@area.each(
    2224,
    (2, 16, 256, 1024),
    "A full ring of {} descriptors is served",
    device="net",
    severity=severity_of_size,
)
def full(be: BackEnd, size: int) -> None:
    ring = sender(be, size=size)
    pieces = laid_out(ring.memory, _whole(frame_of(60)), ())
    for turn in range(1, 4):
        _batch(be, ring, [pieces] * size, turn * size)


def _batch(be: BackEnd, ring: TestRing, many: Sequence[Pieces], index: int) -> None:
    """Send these with one kick: the used index becomes ``index``, and each is completed once."""
    heads = sorted(ring.driver.add(pieces, []) for pieces in many)
    ring.driver.publish()
    ring.kick()
    be.await_used(ring, index)
    done = [ring.driver.pop() for _ in heads]
    came = sorted(entry[0] for entry in done if entry is not None)
    check(came == heads, f"each of {len(heads)} chains once", f"chains {came}")
    written = {entry[1] for entry in done if entry is not None}
    check(written == {0}, "0 bytes written to transmit buffers", f"{sorted(written)}")


@area.case(2228, "Both indices wrap at 65535, also within batches", device="net")
def wraps(be: BackEnd) -> None:
    start = 65000
    ring = sender(be, size=128, start=start)
    pieces = laid_out(ring.memory, _whole(frame_of(60)), ())
    for turn in range(1, 17):
        _batch(be, ring, [pieces] * 67, start + 67 * turn)
    base = be.stop(ring)
    wanted = start + 67 * 16 & 0xFFFF
    check(base == wanted, f"base {wanted}", f"base {base}")


@area.case(2229, "Both indices take all 65536 values", device="net", severity=Severity.SHOULD)
def all_values(be: BackEnd) -> None:
    ring = sender(be, size=1024)
    pieces = laid_out(ring.memory, _whole(frame_of(60)), ())
    for turn in range(1, 67):
        _batch(be, ring, [pieces] * 1000, 1000 * turn)


@area.case(
    2230,
    "A driver may kick only while the used ring does not have NO_NOTIFY",
    device="net",
    spec="virtio 1.3, 2.7.13.4",
)
def kicks_wanted(be: BackEnd) -> None:
    ring = sender(be)
    _spare_kicks(be, ring)


@area.case(
    2231,
    "With VIRTIO_F_EVENT_IDX a driver may kick only at avail_event",
    device="net",
    spec="virtio 1.3, 2.7.10",
)
def kicks_at_event(be: BackEnd) -> None:
    ring = sender(be, VIRTIO_RING_F_EVENT_IDX)
    _spare_kicks(be, ring)


def _spare_kicks(be: BackEnd, ring: TestRing) -> None:
    pieces = laid_out(ring.memory, _whole(frame_of(60)), ())
    kick_if_asked(be, ring, lambda: ring.driver.add(pieces, []), partial(back, ring))


@area.case(
    2251,
    "A frame that is made available just when the device enables kicks is completed",
    device="net",
    spec="virtio 1.3, 2.7.10",
)
def just_then(be: BackEnd) -> None:
    ring = sender(be, VIRTIO_RING_F_EVENT_IDX)
    pieces = laid_out(ring.memory, _whole(frame_of(60)), ())
    kick_if_late(be, ring, lambda: ring.driver.add(pieces, []))


@area.case(
    2232,
    "With VIRTIO_F_EVENT_IDX a batch that passes used_event is followed by a call",
    device="net",
    spec="virtio 1.3, 2.7.7",
)
def called_in_batch(be: BackEnd) -> None:
    ring = sender(be, VIRTIO_RING_F_EVENT_IDX)
    pieces = laid_out(ring.memory, _whole(frame_of(60)), ())
    for turn in range(1, 6):
        before = 8 * (turn - 1)
        ring.calls()
        # used_event is the fifth completion of eight.
        ring.memory.write(ring.avail + 4 + 2 * ring.size, struct.pack("<H", before + 4))
        heads = [ring.driver.add(pieces, []) for _ in range(8)]
        ring.driver.publish()
        ring.kick()
        check(ring.await_call(be.timeout), "a call when used_event is passed", "none came")
        be.await_used(ring, 8 * turn)
        for _ in heads:
            ring.driver.pop()


@area.case(
    2233,
    "With VIRTIO_F_EVENT_IDX a batch that does not reach used_event is not followed by a call",
    device="net",
    spec="virtio 1.3, 2.7.7",
    severity=Severity.SHOULD,
)
def not_called_in_batch(be: BackEnd) -> None:
    ring = sender(be, VIRTIO_RING_F_EVENT_IDX)
    pieces = laid_out(ring.memory, _whole(frame_of(60)), ())
    ring.driver.arm()
    send(be, ring, pieces)
    ring.await_last_call(QUIET)
    ring.memory.write(ring.avail + 4 + 2 * ring.size, struct.pack("<H", 1000))
    for _ in range(8):
        ring.driver.add(pieces, [])
    ring.driver.publish()
    ring.kick()
    while_waiting = ring.await_call(QUIET)
    be.await_used(ring, 9)
    check(not while_waiting, "no call before used_event", "there was a call")


_STRANGE = {
    "a header and no frame": _whole(b""),
    "a frame of one byte": _whole(b"\x02"),
    "a frame of 13 bytes": _whole(frame_of(13)),
    "a chain of 11 bytes (less than a header)": bytes(11),
    "a chain of a single byte": bytes(1),
    "a frame of 65,000 bytes": _whole(frame_of(65000)),
    "a header with all flags set": b"\xff" * NET_HEADER + frame_of(100),
}


@area.each(
    2234,
    _STRANGE,
    "{} is completed, and so are later frames",
    device="net",
    severity=Severity.SHOULD,
)
def strange(be: BackEnd, name: str) -> None:
    ring = sender(be)
    ring.driver.add(laid_out(ring.memory, _STRANGE[name], ()), [])
    ring.driver.publish()
    ring.kick()
    alone = ring.await_used(1, be.timeout / 2)
    head = ring.driver.add(laid_out(ring.memory, _whole(frame_of(60)), ()), [])
    ring.driver.publish()
    ring.kick()
    try:
        be.await_used(ring, 2)
        be.barrier()
    except WireError as error:
        observed(f"{error}")
    ring.driver.pop()
    back(ring, head)
    check(alone, f"{name} to be completed", "it was completed with the next frame only")


_BAD = {
    "a chain that loops": ({0: (0, 16, NEXT, 1), 1: (0, 16, NEXT, 0)}, 0),
    "a chain that leaves the descriptor table": ({0: (MIB, 16, NEXT, 9999)}, 0),
    "a head beyond the descriptor table": ({}, 9999),
    "a buffer outside of memory": ({0: (1 << 50, 100, 0, 0)}, 0),
    "a buffer beyond the end of memory": ({0: (5 * MIB - 50, 100, 0, 0)}, 0),
    "a buffer of 4 GiB": ({0: (MIB, 0xFFFFFFFF, 0, 0)}, 0),
    "a buffer of no bytes": ({0: (MIB, 0, 0, 0)}, 0),
    "a buffer that is writable": ({0: (MIB, 100, WRITE, 0)}, 0),
    "an indirect table outside of memory": ({0: (1 << 50, 64, INDIRECT, 0)}, 0),
    "an indirect table of 7 bytes": ({0: (MIB, 7, INDIRECT, 0)}, 0),
}


@area.each(2241, _BAD, "{} does not crash a NIC", device="net", severity=Severity.SHOULD)
def bad_chains(be: BackEnd, name: str) -> None:
    ring = sender(be)
    entries, head = _BAD[name]
    spoil(ring, entries, head)
    survives(be, ring, name)
