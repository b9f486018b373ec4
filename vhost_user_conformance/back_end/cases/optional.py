"""VU-B-24xx: messages that few back-ends implement, and messages whose feature was not negotiated.

How a back-end handles a message whose feature was not negotiated is not specified: it may refuse
it with a code, ignore it, answer it, or close the connection. It may not crash, or fail later.
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, NamedTuple

from vhost_user.codec import NEED_REPLY, VERSION
from vhost_user.features import VIRTIO_F_IOMMU_PLATFORM, VIRTIO_F_VERSION_1, ProtocolFeature
from vhost_user.payloads import (
    VRING_NO_FD,
    Inflight,
    Iotlb,
    MemoryRegion,
    MemTable,
    SharedUuid,
    SingleRegion,
)
from vhost_user_conformance.back_end.connection import PROTOCOL_BIT, BackEnd, F, u64, vring_state
from vhost_user_conformance.back_end.requests import QUIET
from vhost_user_conformance.model.case import BACK_END, Area
from vhost_user_conformance.model.verdict import (
    Failed,
    Severity,
    Unsupported,
    check,
    observed,
    unsupported,
)
from vhost_user_conformance.peer.memory import MIB, USER_OFFSET
from vhost_user_conformance.peer.wire import Closed, Silent

if TYPE_CHECKING:
    from vhost_user_conformance.peer.wire import Message

area = Area("optional", BACK_END, "Front-end message types")

_PERM_RW, _UPDATE, _INVALIDATE = 3, 2, 3
_CRYPTO_SESSION = 1072


class Ungated(NamedTuple):
    """A message, the protocol feature that it needs, or "", its payload, and its descriptors."""

    number: int
    feature: str
    payload: bytes = b""
    fds: int = 0


_REGION = SingleRegion(MemoryRegion(MIB, MIB, MIB + USER_OFFSET, 0)).pack()
_IOTLB = Iotlb(MIB, 4096, MIB + USER_OFFSET, _PERM_RW, _UPDATE).pack()

#: All messages that depend on a feature.
_UNGATED = {
    "GET_QUEUE_NUM": Ungated(F.GET_QUEUE_NUM, "MQ"),
    "SEND_RARP": Ungated(F.SEND_RARP, "RARP", u64(0x0100_4F4D_C002)),
    "NET_SET_MTU": Ungated(F.NET_SET_MTU, "NET_MTU", u64(1500)),
    "SET_BACKEND_REQ_FD": Ungated(F.SET_BACKEND_REQ_FD, "BACKEND_REQ", b"", 1),
    "IOTLB_MSG": Ungated(F.IOTLB_MSG, "", _IOTLB),
    "SET_VRING_ENDIAN": Ungated(F.SET_VRING_ENDIAN, "CROSS_ENDIAN", vring_state(0, 0)),
    "GET_CONFIG": Ungated(F.GET_CONFIG, "CONFIG", struct.pack("=III", 0, 8, 0) + bytes(8)),
    "SET_CONFIG": Ungated(F.SET_CONFIG, "CONFIG", struct.pack("=III", 0, 8, 0) + bytes(8)),
    "CREATE_CRYPTO_SESSION": Ungated(
        F.CREATE_CRYPTO_SESSION, "CRYPTO_SESSION", bytes(_CRYPTO_SESSION)
    ),
    "CLOSE_CRYPTO_SESSION": Ungated(F.CLOSE_CRYPTO_SESSION, "CRYPTO_SESSION", u64(1)),
    "POSTCOPY_ADVISE": Ungated(F.POSTCOPY_ADVISE, "PAGEFAULT"),
    "POSTCOPY_LISTEN": Ungated(F.POSTCOPY_LISTEN, "PAGEFAULT"),
    "POSTCOPY_END": Ungated(F.POSTCOPY_END, "PAGEFAULT"),
    "GET_INFLIGHT_FD": Ungated(F.GET_INFLIGHT_FD, "INFLIGHT_SHMFD", Inflight(0, 0, 1, 64).pack()),
    "SET_INFLIGHT_FD": Ungated(
        F.SET_INFLIGHT_FD, "INFLIGHT_SHMFD", Inflight(4096, 0, 1, 64).pack(), 1
    ),
    "GPU_SET_SOCKET": Ungated(F.GPU_SET_SOCKET, "", b"", 1),
    "RESET_DEVICE": Ungated(F.RESET_DEVICE, "RESET_DEVICE"),
    "VRING_KICK": Ungated(F.VRING_KICK, "INBAND_NOTIFICATIONS", vring_state(0, 0)),
    "GET_MAX_MEM_SLOTS": Ungated(F.GET_MAX_MEM_SLOTS, "CONFIGURE_MEM_SLOTS"),
    "ADD_MEM_REG": Ungated(F.ADD_MEM_REG, "CONFIGURE_MEM_SLOTS", _REGION, 1),
    "REM_MEM_REG": Ungated(F.REM_MEM_REG, "CONFIGURE_MEM_SLOTS", _REGION),
    "SET_STATUS": Ungated(F.SET_STATUS, "STATUS", u64(1)),
    "GET_STATUS": Ungated(F.GET_STATUS, "STATUS"),
    "GET_SHARED_OBJECT": Ungated(F.GET_SHARED_OBJECT, "SHARED_OBJECT", bytes(16)),
    "SET_DEVICE_STATE_FD": Ungated(F.SET_DEVICE_STATE_FD, "DEVICE_STATE", bytes(8), 1),
    "CHECK_DEVICE_STATE": Ungated(F.CHECK_DEVICE_STATE, "DEVICE_STATE"),
    "GET_SHMEM_CONFIG": Ungated(F.GET_SHMEM_CONFIG, "SHMEM"),
    "GET_VRING_BASE_SKIP_DRAIN": Ungated(
        F.GET_VRING_BASE_SKIP_DRAIN, "GET_VRING_BASE_SKIP_DRAIN", vring_state(0, 0)
    ),
}
#: Those that have a reply of their own, with need_reply or without.
_ANSWERED = {
    F.GET_QUEUE_NUM,
    F.IOTLB_MSG,
    F.GET_CONFIG,
    F.CREATE_CRYPTO_SESSION,
    F.POSTCOPY_ADVISE,
    F.POSTCOPY_LISTEN,
    F.POSTCOPY_END,
    F.GET_INFLIGHT_FD,
    F.GET_MAX_MEM_SLOTS,
    F.GET_STATUS,
    F.GET_SHARED_OBJECT,
    F.SET_DEVICE_STATE_FD,
    F.CHECK_DEVICE_STATE,
    F.GET_SHMEM_CONFIG,
    F.GET_VRING_BASE_SKIP_DRAIN,
}


def _next_serves(be: BackEnd) -> None:
    """A later front-end is served, unless the program ends with its first connection."""
    try:
        other = be.reconnect()
    except Unsupported:
        return
    if be.device:
        other.serve(other.working_ring())
    else:
        other.negotiate().barrier()


def _answer(be: BackEnd, ungated: Ungated) -> str:
    """Send it, with need_reply where that was negotiated, and a barrier after it; the outcome."""
    acks = ProtocolFeature.REPLY_ACK in be.acked
    fds = tuple(be.spare_fd() for _ in range(ungated.fds))
    flags = VERSION | (NEED_REPLY if acks else 0)
    be.wire.send(ungated.number, ungated.payload, flags=flags, fds=fds)
    try:
        be.wire.send(F.GET_FEATURES)
        first = be.wire.receive()
    except Closed:
        return "it closed the connection"
    except Silent as error:
        raise Failed("an answer, or the connection closed", str(error)) from None
    first.close()
    if first.id == F.GET_FEATURES:
        return "it ignored it"
    check(first.id == ungated.number, f"a reply to {F(ungated.number).name}", f"id {first.id}")
    after = _described(ungated, first)
    try:
        be.reply_to(F.GET_FEATURES)
    except Closed:
        after += ", and then closed the connection"
    return after


def _described(ungated: Ungated, reply: Message) -> str:
    if ungated.number not in _ANSWERED:
        return f"it acknowledged it with {reply.u64}"
    return f"it answered with {len(reply.payload)} bytes"


@area.each(
    2401,
    _UNGATED,
    "{} without its feature negotiated is survived, and the next front-end is served",
    severity=Severity.SHOULD,
)
def ungated(be: BackEnd, name: str) -> None:
    message = _UNGATED[name]
    be.negotiate(without=(message.feature,) if message.feature else ())
    be.memory()
    how = _answer(be, message)
    _next_serves(be)
    refused = "closed the connection" in how or ("acknowledged" in how and not how.endswith(" 0"))
    if not refused:
        observed(how)


@area.each(
    2431,
    ("GPU_SET_SOCKET", "SET_VRING_ENDIAN", "IOTLB_MSG", "GET_SHARED_OBJECT", "VRING_KICK"),
    "{} without its feature negotiated leaves a ring running, or the connection is closed",
    works=True,
)
def beside_a_ring(be: BackEnd, name: str) -> None:
    message = _UNGATED[name]
    if be.read_features().protocol & be.mask(message.feature):
        unsupported("is about a device without this message")
    ring = be.working_ring()
    be.serve(ring)
    how = _answer(be, message)
    if "closed" in how:
        observed(how)
    be.serve(ring)


# -- messages whose feature was negotiated


def _not_specified(be: BackEnd, number: F, payload: bytes) -> None:
    """An invalid request whose handling is not specified."""
    try:
        code = be.acked_with(number, payload)
    except Closed:
        return
    be.check_responds(f"after {number.name}")
    if not code:
        observed("acknowledged with 0")


@area.each(
    2440,
    (0, 1),
    "SET_VRING_ENDIAN {} is accepted before its ring starts",
    spec="VHOST_USER_SET_VRING_ENDIAN",
    needs=("CROSS_ENDIAN",),
    severity=Severity.SHOULD,
)
def endian(be: BackEnd, order: int) -> None:
    be.negotiate("CROSS_ENDIAN")
    be.accepted(F.SET_VRING_ENDIAN, vring_state(0, order))


@area.case(
    2442,
    "SET_VRING_ENDIAN 2 is refused, or survived",
    spec="VHOST_USER_SET_VRING_ENDIAN",
    needs=("CROSS_ENDIAN", "REPLY_ACK"),
    severity=Severity.SHOULD,
)
def no_endian(be: BackEnd) -> None:
    be.negotiate("CROSS_ENDIAN")
    _not_specified(be, F.SET_VRING_ENDIAN, vring_state(0, 2))


@area.case(
    2443,
    "A ring that was set to little-endian serves",
    spec="VHOST_USER_SET_VRING_ENDIAN",
    needs=("CROSS_ENDIAN",),
    works=True,
    severity=Severity.SHOULD,
)
def little_endian(be: BackEnd) -> None:
    be.negotiate("CROSS_ENDIAN")
    ring = be.ring(be.memory(), be.work.ring)
    be.accepted(F.SET_VRING_ENDIAN, vring_state(ring.index, 0))
    be.start(ring)
    be.serve(ring)


def _with_iommu(be: BackEnd) -> None:
    be.read_features()
    if not be.features >> VIRTIO_F_IOMMU_PLATFORM & 1:
        unsupported("VIRTIO_F_IOMMU_PLATFORM is not offered")
    be.negotiate(features=1 << VIRTIO_F_VERSION_1 | PROTOCOL_BIT | 1 << VIRTIO_F_IOMMU_PLATFORM)


@area.each(
    2444,
    {"an update": _UPDATE, "an invalidation": _INVALIDATE},
    "IOTLB_MSG with {} is answered with 0",
    spec="VHOST_USER_IOTLB_MSG",
)
def iotlb(be: BackEnd, name: str) -> None:
    _with_iommu(be)
    be.memory()
    update = Iotlb(MIB, 4096, MIB + USER_OFFSET, _PERM_RW, _UPDATE)
    for kind in (_UPDATE, *((_INVALIDATE,) if name == "an invalidation" else ())):
        code = be.ask_u64(F.IOTLB_MSG, update._replace(type=kind).pack())
        check(code == 0, "0", f"{code}")


@area.case(
    2446,
    "CREATE_CRYPTO_SESSION with an empty session is answered with an invalid session id",
    spec="VHOST_USER_CREATE_CRYPTO_SESSION",
    severity=Severity.SHOULD,
    needs=("CRYPTO_SESSION",),
)
def crypto_session(be: BackEnd) -> None:
    be.negotiate("CRYPTO_SESSION")
    try:
        reply = be.ask(F.CREATE_CRYPTO_SESSION, bytes(_CRYPTO_SESSION))
    except Closed:
        observed("it closed the connection")
    session = int.from_bytes(reply.payload[-8:], "little", signed=True)
    observed(f"{len(reply.payload)} bytes, the last 8 of which are session {session}")


@area.case(
    2447,
    "CLOSE_CRYPTO_SESSION of an unknown session is refused, or survived",
    spec="VHOST_USER_CLOSE_CRYPTO_SESSION",
    severity=Severity.SHOULD,
    needs=("CRYPTO_SESSION", "REPLY_ACK"),
)
def no_crypto_session(be: BackEnd) -> None:
    be.negotiate("CRYPTO_SESSION")
    _not_specified(be, F.CLOSE_CRYPTO_SESSION, u64(12345))


@area.case(
    2448,
    "VRING_KICK kicks a ring that has no kick descriptor",
    spec="VHOST_USER_VRING_KICK",
    needs=("INBAND_NOTIFICATIONS",),
    works=True,
)
def in_band(be: BackEnd) -> None:
    be.negotiate("INBAND_NOTIFICATIONS", "BACKEND_REQ", "REPLY_ACK")
    ring = be.ring(be.memory(), be.work.ring)
    be.start(ring)
    be.stop(ring)
    be.send(F.SET_VRING_NUM, vring_state(ring.index, ring.size))
    be.send(F.SET_VRING_BASE, vring_state(ring.index, 0))
    be.send(F.SET_VRING_ADDR, be.address(ring))
    be.send(F.SET_VRING_KICK, u64(ring.index | VRING_NO_FD))
    be.send(F.SET_VRING_CALL, u64(ring.index), fds=(ring.call_fd,))
    be.enable(ring)
    job = be.work.post(ring.memory, ring)
    be.accepted(F.VRING_KICK, vring_state(ring.index, 0))
    be.await_used(ring, 1)
    be.check_completed(ring, job)


@area.case(
    2449,
    "GET_SHARED_OBJECT of an unknown object is answered without a descriptor",
    spec="VHOST_USER_GET_SHARED_OBJECT",
    needs=("SHARED_OBJECT",),
)
def no_shared_object(be: BackEnd) -> None:
    be.negotiate("SHARED_OBJECT")
    reply = be.ask(F.GET_SHARED_OBJECT, SharedUuid(os.urandom(16)).pack())
    check(not reply.fds, "no descriptor", f"{len(reply.fds)}")


@area.case(
    2450,
    "GET_SHMEM_CONFIG is answered with the sizes of at most 256 regions",
    spec="VHOST_USER_GET_SHMEM_CONFIG; 3d6e537a81",
    needs=("SHMEM",),
)
def shmem_config(be: BackEnd) -> None:
    be.negotiate("SHMEM")
    reply = be.ask(F.GET_SHMEM_CONFIG)
    size = len(reply.payload)
    check(size >= 8 and not size % 8, "8 bytes and 8 for each region", f"{size} bytes")
    count = int.from_bytes(reply.payload[:4], "little")
    sizes = [one for (one,) in struct.iter_unpack("<Q", reply.payload[8:])]
    there = sum(1 for one in sizes if one)
    check(count <= 256 and there == count, f"{count} regions with a size", f"{there}")


@area.case(
    2452,
    "With GPA_ADDRESSES a ring at guest addresses is served",
    spec="A vring address description; Memory region description",
    needs=("GPA_ADDRESSES",),
    works=True,
)
def ring_at_guest_addresses(be: BackEnd) -> None:
    be.negotiate("GPA_ADDRESSES")
    memory = be.memory(share=False)
    regions = [each.on_wire._replace(user_addr=each.gpa) for each in memory.regions]
    be.accepted(F.SET_MEM_TABLE, MemTable(tuple(regions)).pack(), fds=memory.fds)
    ring = be.ring(memory, be.work.ring, 64)
    ring.user_offset = 0
    be.start(ring)
    be.serve(ring)


@area.case(
    2451,
    "GPU_SET_SOCKET is survived by a device that is not a GPU",
    spec="VHOST_USER_GPU_SET_SOCKET",
    severity=Severity.SHOULD,
)
def gpu_socket(be: BackEnd) -> None:
    be.negotiate(without=("REPLY_ACK",))
    be.send(F.GPU_SET_SOCKET, fds=(be.spare_fd(),))
    if be.wire.hangs_up(QUIET):
        observed("it closed the connection")
    be.check_responds("after GPU_SET_SOCKET")
    observed("it ignored it")
