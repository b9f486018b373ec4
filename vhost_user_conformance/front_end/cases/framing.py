"""VU-F-01xx: headers, sizes and descriptors of the front-end's messages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vhost_user.payloads import VRING_NO_FD
from vhost_user_conformance.front_end.recording import RING_FDS, F
from vhost_user_conformance.front_end.script import REPLY_FLAGS, Script, occasion
from vhost_user_conformance.front_end.tester import all_of
from vhost_user_conformance.model.case import FRONT_END, Area
from vhost_user_conformance.model.verdict import check

if TYPE_CHECKING:
    from vhost_user_conformance.front_end.recording import Received
    from vhost_user_conformance.front_end.script import ScriptedSession
    from vhost_user_conformance.front_end.tester import FrontEnd
    from vhost_user_conformance.peer.wire import Message

area = Area("framing", FRONT_END, "Header")

#: Bytes of each message's payload ("Front-end message types"); the payload
#: of a memory table and of a part of the configuration space contains its size.
SIZES = {
    **dict.fromkeys((F.GET_FEATURES, F.SET_OWNER, F.RESET_OWNER, F.GET_PROTOCOL_FEATURES), 0),
    **dict.fromkeys((F.GET_QUEUE_NUM, F.RESET_DEVICE, F.GET_MAX_MEM_SLOTS, F.GET_STATUS), 0),
    **dict.fromkeys((F.SET_BACKEND_REQ_FD, F.POSTCOPY_ADVISE, F.POSTCOPY_LISTEN), 0),
    **dict.fromkeys((F.POSTCOPY_END, F.CHECK_DEVICE_STATE, F.SET_LOG_FD, F.GPU_SET_SOCKET), 0),
    **dict.fromkeys((F.SET_FEATURES, F.SET_PROTOCOL_FEATURES, F.SET_STATUS, F.SEND_RARP), 8),
    **dict.fromkeys((F.NET_SET_MTU, F.SET_VRING_KICK, F.SET_VRING_CALL, F.SET_VRING_ERR), 8),
    **dict.fromkeys((F.SET_VRING_NUM, F.SET_VRING_BASE, F.GET_VRING_BASE), 8),
    **dict.fromkeys((F.SET_VRING_ENABLE, F.SET_VRING_ENDIAN, F.VRING_KICK), 8),
    **dict.fromkeys((F.SET_VRING_ADDR, F.ADD_MEM_REG, F.REM_MEM_REG), 40),
    **dict.fromkeys((F.GET_INFLIGHT_FD, F.SET_INFLIGHT_FD), 24),
    F.SET_LOG_BASE: 16,
    F.GET_SHARED_OBJECT: 16,
    F.SET_DEVICE_STATE_FD: 8,
    F.GET_SHMEM_CONFIG: 0,
    F.GET_VRING_BASE_SKIP_DRAIN: 8,
    F.IOTLB_MSG: 32,
}
WITH_DESCRIPTOR = (
    *(F.SET_BACKEND_REQ_FD, F.SET_INFLIGHT_FD, F.SET_DEVICE_STATE_FD, F.ADD_MEM_REG),
    F.GPU_SET_SOCKET,
)
#: Invalid flags of a reply; one case each, as a front-end may check some of them only.
WRONG_FLAGS = {
    "no reply bit": 0x1,
    "version 0": 0x4,
    "version 2": 0x6,
}


@area.case(101, "Each request has version 1")
def version(fe: FrontEnd) -> None:
    all_of(fe.plain().messages, lambda each: each.flags & 3 == 1, "flags with version 1")


@area.case(102, "No request has the reply bit set")
def reply_bit(fe: FrontEnd) -> None:
    all_of(fe.plain().messages, lambda each: not each.flags & 4, "flags without bit 2")


@area.case(103, "No request has an undefined flag set (bits 4 to 31)")
def undefined_flags(fe: FrontEnd) -> None:
    all_of(fe.plain().messages, lambda each: not each.flags >> 4, "flags below 0x10")


@area.case(104, "Each request has a defined id")
def known_id(fe: FrontEnd) -> None:
    known = F._value2member_map_
    all_of(fe.plain().messages, lambda each: each.id in known, "an id of the specification")


def _right_size(each: Received) -> bool:
    if each.id == F.SET_MEM_TABLE:
        return len(each.payload) == 8 + 32 * int.from_bytes(each.payload[:4], "little")
    if each.id in (F.GET_CONFIG, F.SET_CONFIG):
        return len(each.payload) == 12 + int.from_bytes(each.payload[4:8], "little")
    if each.id == F.SET_LOG_BASE and not each.fds:
        return len(each.payload) in (8, 16)
    wanted = SIZES.get(F(each.id)) if each.id in F._value2member_map_ else None
    return wanted is None or len(each.payload) == wanted


@area.each(110, list(F), "The payload of {0.name} has the specified size")
def payload_size(fe: FrontEnd, number: F) -> None:
    recording = fe.session(occasion(number))
    all_of(recording.some(number), _right_size, "a payload of the size that its type has")


def _right_descriptors(each: Received) -> bool:
    if each.id == F.SET_MEM_TABLE:
        return len(each.fds) == int.from_bytes(each.payload[:4], "little")
    if each.id in RING_FDS:
        return len(each.fds) == (0 if each.u64 & VRING_NO_FD else 1)
    if each.id in WITH_DESCRIPTOR:
        return len(each.fds) == 1
    return len(each.fds) <= 1 if each.id in (F.SET_LOG_BASE, F.SET_LOG_FD) else not each.fds


@area.case(105, "A message has the number of descriptors of its type", spec="Ancillary data")
def descriptors(fe: FrontEnd) -> None:
    all_of(fe.plain().messages, _right_descriptors, "the number of descriptors of its type")


@area.case(106, "No message has more than 8 descriptors", spec="VHOST_MEMORY_BASELINE_NREGIONS")
def few_descriptors(fe: FrontEnd) -> None:
    all_of(fe.plain().messages, lambda each: len(each.fds) <= 8, "at most 8 descriptors")


# -- invalid replies: none may be accepted


def check_not_accepted(
    fe: FrontEnd, number: F, name: str, payload: bytes | None, **invalid: int
) -> None:
    """Send an invalid reply: the front-end must send nothing more."""

    def react(session: ScriptedSession, message: Message) -> None:
        good, fds = session.reply_to(message)
        session.mark(name)
        flags = invalid.get("flags", REPLY_FLAGS)
        session.reply(invalid.get("id", number), good if payload is None else payload, fds, flags)

    recording = fe.reacting(f"{name} to {number.name}", number, react)
    since = [each for each in recording.since(name) if each.id != number]
    seen = f"it continued with {since[0]}" if since else ""
    check(not since, "the reply to be refused, and the connection closed", seen)


ASKED_FIRST = (F.GET_FEATURES, F.GET_PROTOCOL_FEATURES)


@area.each(160, ASKED_FIRST, "A reply to {0.name} with another id is not accepted")
def wrong_id(fe: FrontEnd, number: F) -> None:
    check_not_accepted(fe, number, "another id", None, id=F.GET_QUEUE_NUM)


@area.each(163, WRONG_FLAGS, "A reply to GET_FEATURES with {} is not accepted")
def wrong_flags(fe: FrontEnd, name: str) -> None:
    check_not_accepted(fe, F.GET_FEATURES, name, None, flags=WRONG_FLAGS[name])


@area.each(167, (0, 4, 16), "A reply to GET_FEATURES of {} bytes instead of 8 is not accepted")
def wrong_size(fe: FrontEnd, size: int) -> None:
    check_not_accepted(fe, F.GET_FEATURES, f"{size} bytes", b"\xff" * size)


@area.each(
    180,
    (F.GET_PROTOCOL_FEATURES, F.GET_QUEUE_NUM),
    "A reply to {0.name} of 4 bytes instead of 8 is not accepted",
)
def short_reply(fe: FrontEnd, number: F) -> None:
    check_not_accepted(fe, number, "4 bytes", b"\xff" * 4)


@area.case(170, "The front-end survives a reply that announces 4 GiB, and refuses it")
def huge_reply(fe: FrontEnd) -> None:
    def react(session: ScriptedSession, message: Message) -> None:
        session.mark("a huge reply")
        header = b"".join(
            each.to_bytes(4, "little") for each in (message.id, REPLY_FLAGS, 0xFFFFFFFF)
        )
        session.wire.send_bytes(header + bytes(64))

    recording = fe.reacting("a huge reply", F.GET_FEATURES, react)
    since = [each for each in recording.since("a huge reply") if each.id != F.GET_FEATURES]
    check(not since, "the reply to be refused", f"it continued with {since[:1]}")


@area.case(171, "A reply that comes byte by byte is accepted", spec="Header")
def in_bytes(fe: FrontEnd) -> None:
    def react(session: ScriptedSession, message: Message) -> None:
        payload, _ = session.reply_to(message)
        session.mark("a reply in bytes")
        header = [message.id, REPLY_FLAGS, len(payload)]
        session.wire.send_pieces(b"".join(each.to_bytes(4, "little") for each in header) + payload)

    recording = fe.reacting("a reply in bytes", F.GET_FEATURES, react)
    check(recording.since("a reply in bytes"), "the front-end to continue", "it sends nothing more")


@area.each(172, (1, 12, 13), "A reply that comes in two parts, the first of {} bytes, is accepted")
def cut(fe: FrontEnd, count: int) -> None:
    def react(session: ScriptedSession, message: Message) -> None:
        payload, _ = session.reply_to(message)
        session.mark("a cut reply")
        header = [message.id, REPLY_FLAGS, len(payload)]
        whole = b"".join(each.to_bytes(4, "little") for each in header) + payload
        session.wire.send_pieces(whole[:count], count)
        session.wire.send_bytes(whole[count:])

    recording = fe.session(Script(f"cut after {count}", reactions=((F.GET_FEATURES, react),)))
    check(recording.since("a cut reply"), "the front-end to continue", "it sends nothing more")
