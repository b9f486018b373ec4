"""VU-B-2850 and up: short and long frames, buffers that are too small, and the legacy header."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from vhost_user.features import VIRTIO_F_VERSION_1
from vhost_user_conformance.back_end.cases.data_net import area
from vhost_user_conformance.back_end.connection import PROTOCOL_BIT, BackEnd, F, u64
from vhost_user_conformance.back_end.nic import (
    ROOM,
    RX,
    TX,
    Nic,
    frame_of,
    laid_out,
    looped,
    sender,
)
from vhost_user_conformance.back_end.requests import QUIET
from vhost_user_conformance.model.verdict import Severity, check, observed, unsupported
from vhost_user_conformance.peer.device_work import NET_F_MTU, NET_HEADER
from vhost_user_conformance.peer.wire import Closed

if TYPE_CHECKING:
    from vhost_user_conformance.peer.memory import TestRing

_RECEIVE = "virtio 1.3, 5.1.6.4"
_MTU = "virtio 1.3, 5.1.4; VHOST_USER_NET_SET_MTU"
_ETHERNET, _TAG = 14, bytes.fromhex("81000007")
#: struct virtio_net_hdr without num_buffers, as before VERSION_1.
_LEGACY = 10


@area.each(
    2850, (14, 20, 42, 59), "A frame of {} bytes is received, unchanged or padded", device="net"
)
def short(be: BackEnd, size: int) -> None:
    nic = looped(be)
    for number in range(3):
        frame, buffer = frame_of(size, number), nic.offer(ROOM)
        nic.send(frame)
        got = nic.take(buffer)[NET_HEADER:]
        check(got[:size] == frame, f"the frame {frame.hex()}", f"{got.hex()}")
        check(not any(got[size:]), "zeroes behind the frame, if anything", f"{got[size:].hex()}")


@area.each(
    2854,
    (0, 1, 13),
    "A buffer of {} bytes behind the header is completed, and later frames are received",
    device="net",
    spec="virtio 1.3, 5.1.6.2",
)
def too_short(be: BackEnd, size: int) -> None:
    ring = sender(be)
    for _ in range(2 * ring.size):
        index = ring.used_index + 1
        ring.driver.add(laid_out(ring.memory, bytes(NET_HEADER) + frame_of(60)[:size], ()), [])
        ring.driver.publish()
        ring.kick()
        be.await_used(ring, index)
        ring.driver.pop()
    be.serve(ring)


@area.case(
    2857,
    "A frame that does not fit its buffer is not received in part",
    device="net",
    spec=_RECEIVE,
)
def not_cut(be: BackEnd) -> None:
    nic = looped(be)
    small, large = nic.offer(NET_HEADER + 100), nic.offer(ROOM)
    frame = frame_of(1000, 1)
    nic.send(frame)
    nic.send(frame_of(60, 2))
    if not nic.rx.await_used(3, QUIET) and nic.rx.used_index == 1:
        observed("it does not use a buffer that is too small for the next frame")
    _check_not_cut(nic, small.head, frame)
    del large


def _check_not_cut(nic: Nic, head: int, frame: bytes) -> None:
    done = nic.rx.driver.pop()
    check(done is not None, "a completion", "there is none")
    first, written = done or (0, 0)
    cut = first == head and NET_HEADER < written < NET_HEADER + len(frame)
    check(
        not cut or written == NET_HEADER + 60, "the frame as a whole, or none", f"{written} bytes"
    )


@area.case(
    2858,
    "The buffers of frames that were dropped are returned, or used for later frames",
    device="net",
    spec=_RECEIVE,
)
def returned(be: BackEnd) -> None:
    nic = looped(be)
    for number in range(8):
        nic.offer(NET_HEADER + 20)
        nic.send(frame_of(800, number))
    be.barrier()
    base = be.stop(nic.rx)
    used = nic.rx.used_index
    check(base == used, f"a used index of {base}, the base", f"the used index is {used}")


def _limited(be: BackEnd, mtu: int) -> Nic:
    """A NIC that sends frames back, with this MTU."""
    nic = looped(be, NET_F_MTU)
    be.accepted(F.NET_SET_MTU, u64(mtu))
    return nic


@area.each(
    2859,
    (600, 1000, 1500),
    "An MTU of {} counts neither the Ethernet header nor a VLAN's tag: such frames are received",
    device="net",
    spec=_MTU,
    needs=("NET_MTU",),
)
def largest(be: BackEnd, mtu: int) -> None:
    nic = _limited(be, mtu)
    frame = frame_of(_ETHERNET + mtu, 1)
    tagged = frame[:12] + _TAG + frame[12:]
    for each in (frame, tagged, frame_of(60, 2)):
        buffer = nic.offer(ROOM)
        index = nic.rx.used_index + 1
        nic.send(each)
        check(
            nic.rx.await_used(index, be.timeout),
            f"a frame of {len(each)} bytes to be received with an MTU of {mtu}",
            "it is not",
        )
        nic.checked(buffer, each)


@area.case(
    2862,
    "With VIRTIO_NET_F_MTU no frame above the MTU is received",
    device="net",
    spec=_MTU,
    needs=("NET_MTU",),
    severity=Severity.SHOULD,
)
def above(be: BackEnd) -> None:
    nic = _limited(be, 1000)
    buffer = nic.offer(ROOM)
    nic.send(frame_of(_ETHERNET + 1001, 1))
    frame = frame_of(_ETHERNET + 1000, 2)
    nic.send(frame)
    nic.checked(buffer, frame)


@area.case(
    2863,
    "Without VIRTIO_NET_F_MTU the MTU that the front-end sets limits no frame",
    device="net",
    spec=_MTU,
    needs=("NET_MTU",),
)
def without_the_bit(be: BackEnd) -> None:
    nic = looped(be)
    be.accepted(F.NET_SET_MTU, u64(600))
    nic.comes_back(frame_of(1514, 1))


@area.case(
    2864,
    "The MTU of a front-end that has disconnected does not limit the next one",
    device="net",
    spec=_MTU,
    needs=("NET_MTU",),
)
def of_the_last(be: BackEnd) -> None:
    _limited(be, 600)
    nic = looped(be.reconnect(), NET_F_MTU)
    nic.comes_back(frame_of(1514, 1))


def _legacy_rings(be: BackEnd) -> tuple[TestRing, TestRing]:
    try:
        be.negotiate(features=PROTOCOL_BIT)
        be.barrier()
    except Closed:
        # virtio 1.3, 6.1: a device may fail to operate further without it.
        unsupported("it closes the connection of a driver without VERSION_1")
    if be.driver_features >> VIRTIO_F_VERSION_1 & 1:
        unsupported("is about drivers without VERSION_1, which it does not accept")
    memory = be.memory()
    rx, tx = be.ring(memory, RX), be.ring(memory, TX)
    for ring in (rx, tx):
        be.set_up(ring)
    for ring in (rx, tx):
        be.enable(ring)
    be.barrier()
    return rx, tx


def _comes_back(be: BackEnd, rx: TestRing, tx: TestRing, header: int, frame: bytes) -> None:
    """Send a frame behind a header of this length, and check that it comes back behind one."""
    memory = rx.memory
    room = memory.allocate(ROOM)
    rx.driver.add([], [(room, ROOM)])
    rx.driver.publish()
    rx.kick()
    be.barrier()
    data = memory.allocate(header + len(frame))
    memory.write(data, bytes(header) + frame)
    index, sent = rx.used_index + 1, tx.used_index + 1
    tx.driver.add([(data, header + len(frame))], [])
    tx.driver.publish()
    tx.kick()
    be.await_used(tx, sent)
    tx.driver.pop()
    deadline = time.monotonic() + be.timeout / 4
    if not rx.await_used(index, deadline - time.monotonic()):
        unsupported("the back-end does not send frames back")
    done = rx.driver.pop()
    written = 0 if done is None else done[1]
    wanted = header + len(frame)
    check(written == wanted, f"{wanted} bytes, a header of {header} and the frame", f"{written}")
    if header == NET_HEADER:
        count = int.from_bytes(memory.read(room + _LEGACY, 2), "little")
        check(count == 1, "num_buffers 1", f"{count}")
    got = memory.read(room + header, len(frame))
    check(got == frame, f"the frame behind {header} bytes", f"{got[:24].hex()}...")


@area.case(
    2865,
    "Without VERSION_1 and mergeable buffers the header has 10 bytes",
    device="net",
    spec="virtio 1.3, 5.1.6.1",
)
def legacy(be: BackEnd) -> None:
    rx, tx = _legacy_rings(be)
    for number in range(4):
        _comes_back(be, rx, tx, _LEGACY, frame_of(100, number))


@area.case(
    2866,
    "The length of the header follows the features of the driver that runs now",
    device="net",
    spec="virtio 1.3, 5.1.6.1",
)
def legacy_then_modern(be: BackEnd) -> None:
    rx, tx = _legacy_rings(be)
    _comes_back(be, rx, tx, _LEGACY, frame_of(100, 1))
    memory = rx.memory
    for header, features in (
        (NET_HEADER, 1 << VIRTIO_F_VERSION_1 | PROTOCOL_BIT),
        (_LEGACY, PROTOCOL_BIT),
    ):
        for ring in (rx, tx):
            be.enable(ring, on=False)
            be.stop(ring)
        be.send(F.SET_FEATURES, u64(features))
        rx, tx = be.ring(memory, RX), be.ring(memory, TX)
        for ring in (rx, tx):
            be.set_up(ring)
        for ring in (rx, tx):
            be.enable(ring)
        be.barrier()
        _comes_back(be, rx, tx, header, frame_of(100, 2))
