"""VU-F-09xx, 11xx and 12xx: configuration space, numbers of queues, and requests in flight."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from vhost_user.features import ProtocolFeature
from vhost_user.payloads import Inflight
from vhost_user_conformance.front_end.acts import CONT
from vhost_user_conformance.front_end.recording import F
from vhost_user_conformance.front_end.script import Script
from vhost_user_conformance.front_end.tester import all_of
from vhost_user_conformance.model.case import FRONT_END, Area
from vhost_user_conformance.model.verdict import Severity, check, unsupported

if TYPE_CHECKING:
    from vhost_user_conformance.front_end.recording import Received, Recording
    from vhost_user_conformance.front_end.script import ScriptedSession
    from vhost_user_conformance.front_end.tester import FrontEnd
    from vhost_user_conformance.peer.wire import Message

config = Area("config", FRONT_END, "VHOST_USER_GET_CONFIG", needs=("CONFIG",))
queues = Area("multi_queue", FRONT_END, "Multiple queue support", needs=("MQ",))
inflight = Area("inflight", FRONT_END, "Inflight I/O tracking", needs=("INFLIGHT_SHMFD",))
CONFIG_SPACE = 256


def _span(each: Received) -> tuple[int, int, int]:
    return (
        int.from_bytes(each.payload[:4], "little"),
        int.from_bytes(each.payload[4:8], "little"),
        int.from_bytes(each.payload[8:12], "little"),
    )


@config.case(901, "What GET_CONFIG asks for lies in the first 256 bytes")
def in_space(fe: FrontEnd) -> None:
    all_of(
        fe.plain().some(F.GET_CONFIG),
        lambda each: sum(_span(each)[:2]) <= CONFIG_SPACE and _span(each)[1] > 0,
        "an offset and a size within 256 bytes",
    )


@config.case(902, "GET_CONFIG has room for the bytes that it asks for")
def room(fe: FrontEnd) -> None:
    all_of(
        fe.plain().some(F.GET_CONFIG),
        lambda each: len(each.payload) == 12 + _span(each)[1],
        "12 bytes and as many as are asked for",
    )


@config.case(903, "GET_CONFIG has no flags")
def no_flags(fe: FrontEnd) -> None:
    all_of(fe.plain().some(F.GET_CONFIG), lambda each: _span(each)[2] == 0, "flags 0")


@config.case(904, "SET_CONFIG has flags 0 or 1", spec="VHOST_USER_SET_CONFIG")
def set_flags(fe: FrontEnd) -> None:
    all_of(fe.plain().some(F.SET_CONFIG), lambda each: _span(each)[2] <= 1, "flags 0 or 1")


def _bad_config(fe: FrontEnd, name: str, payload: bytes) -> Recording:
    def react(session: ScriptedSession, message: Message) -> None:
        session.mark(name)
        session.reply(message.id, payload)

    fe.plain().some(F.GET_CONFIG)
    return fe.reacting(name, F.GET_CONFIG, react)


@config.case(905, "An empty reply to GET_CONFIG is an error: no ring is started on it")
def empty_reply(fe: FrontEnd) -> None:
    since = _bad_config(fe, "an empty configuration space", b"").since(
        "an empty configuration space"
    )
    kicks = [each for each in since if each.id == F.SET_VRING_KICK]
    check(not kicks, "no SET_VRING_KICK", f"{kicks[:1]}")


@config.case(906, "A reply to GET_CONFIG that is larger than asked for is not taken")
def large_reply(fe: FrontEnd) -> None:
    name = "a configuration space of 1 KiB"
    since = _bad_config(fe, name, bytes(4) + (1012).to_bytes(4, "little") + bytes(1016)).since(name)
    kicks = [each for each in since if each.id == F.SET_VRING_KICK]
    check(not kicks, "no SET_VRING_KICK", f"{kicks[:1]}")


@config.case(907, "A reply to GET_CONFIG that is shorter than asked for is not taken")
def short_reply(fe: FrontEnd) -> None:
    def react(session: ScriptedSession, message: Message) -> None:
        session.mark("half of the configuration space")
        _, size, flags = struct.unpack_from("<III", message.payload)
        half = session.reply_to(message)[0][12 : 12 + size // 2]
        session.reply(message.id, struct.pack("<III", 0, len(half), flags) + half)

    all_of(fe.plain().some(F.GET_CONFIG), lambda each: _span(each)[1] > 1, "two bytes at least")
    name = "half of the configuration space"
    since = fe.reacting(name, F.GET_CONFIG, react).since(name)
    kicks = [each for each in since if each.id == F.SET_VRING_KICK]
    check(not kicks, "no SET_VRING_KICK", f"{kicks[:1]}")


@queues.case(
    1101,
    "The number of queues is asked for before a second one is used",
    severity=Severity.SHOULD,
)
def ask_first(fe: FrontEnd) -> None:
    recording = fe.plain()
    single = 2 if fe.device == "net" else 1
    many = [each for each in recording.messages if each.ring is not None and each.ring >= single]
    if not many:
        unsupported("the front-end has no more than one queue")
    asked = [each for each in recording.of(F.GET_QUEUE_NUM) if each.at < many[0].at]
    check(asked, "GET_QUEUE_NUM before it", f"{many[0]} of ring {many[0].ring} without it")


@queues.each(
    1102,
    (1, 2),
    "A back-end with {} queues is not asked for more",
    severity=Severity.SHOULD,
)
def few(fe: FrontEnd, count: int) -> None:
    recording = fe.session(Script(f"{count} queues", queues=count))
    # The control queue of a NIC, behind all pairs, is the front-end's own affair.
    limit = count * 2 if fe.device == "net" else count
    kicks = [each for each in recording.of(F.SET_VRING_KICK) if (each.ring or 0) >= limit]
    check(not kicks, f"rings below {limit} only", f"{kicks[:1]} of ring {kicks and kicks[0].ring}")


@queues.case(
    1104,
    "A back-end with no queue at all is given no ring",
    severity=Severity.SHOULD,
)
def none(fe: FrontEnd) -> None:
    recording = fe.session(Script("no queues", queues=0))
    recording.some(F.GET_QUEUE_NUM)
    kicks = recording.of(F.SET_VRING_KICK)
    check(not kicks, "no SET_VRING_KICK", f"{kicks[:1]}")


@queues.case(1105, "Without MQ a back-end has one queue, and no more are used")
def without_mq(fe: FrontEnd) -> None:
    limits = {"blk": 1, "net": 2}
    if fe.device not in limits:
        unsupported("how many rings one queue has is the device's own affair")
    # A NIC's control queue stands behind its pair.
    limit = limits[fe.device] + (fe.device == "net")
    script = Script("without MQ", protocol_without=int(ProtocolFeature.MQ))
    kicks = [each for each in fe.session(script).of(F.SET_VRING_KICK) if (each.ring or 0) >= limit]
    check(not kicks, f"rings below {limit} only", f"{kicks[:1]} of ring {kicks and kicks[0].ring}")


def _region(each: Received) -> Inflight:
    return Inflight.unpack(each.payload[:24].ljust(24, b"\0"))


@inflight.case(1201, "GET_INFLIGHT_FD says how many rings there are, and how large")
def asks(fe: FrontEnd) -> None:
    all_of(
        fe.plain().some(F.GET_INFLIGHT_FD),
        lambda each: _region(each).num_queues > 0 and _region(each).queue_size > 0,
        "both above 0",
    )


@inflight.case(1202, "The region is given to the back-end before a ring is started")
def given(fe: FrontEnd) -> None:
    recording = fe.plain()
    first = recording.first(F.SET_VRING_KICK)
    told = recording.first(F.SET_INFLIGHT_FD)
    check(told.at < first.at, "SET_INFLIGHT_FD before SET_VRING_KICK", f"{first} came first")


@inflight.case(1207, "A region that was asked for, and given, is used: it comes back at the start")
def used(fe: FrontEnd) -> None:
    recording = fe.plain()
    asked = recording.first(F.GET_INFLIGHT_FD)
    kicks = [each for each in recording.after(asked) if each.id == F.SET_VRING_KICK]
    if not kicks:
        unsupported("the front-end starts no ring after it")
    told = [each for each in recording.of(F.SET_INFLIGHT_FD) if asked.at < each.at < kicks[0].at]
    check(told, "SET_INFLIGHT_FD before the ring is started", f"{kicks[0]} without it")


@inflight.case(1203, "SET_INFLIGHT_FD has a descriptor of a file that holds the region")
def has_descriptor(fe: FrontEnd) -> None:
    all_of(
        fe.plain().some(F.SET_INFLIGHT_FD),
        lambda each: (
            each.fds and _region(each).mmap_size + _region(each).mmap_offset <= each.fds[0].size
        ),
        "a file as large as the region's offset and size together",
    )


@inflight.case(1204, "The region has the size and shape that the back-end gave it")
def same_shape(fe: FrontEnd) -> None:
    recording = fe.plain()
    asked = recording.first(F.GET_INFLIGHT_FD)
    told = recording.first(F.SET_INFLIGHT_FD)
    one, other = _region(asked), _region(told)
    check(
        (one.num_queues, one.queue_size) == (other.num_queues, other.queue_size),
        f"{one.num_queues} rings of {one.queue_size}",
        f"{other.num_queues} of {other.queue_size}",
    )


@inflight.case(1205, "When the VM continues the back-end is given the same region")
def same_region(fe: FrontEnd) -> None:
    recording = fe.plain()
    recording.did(CONT)
    before = recording.some(F.SET_INFLIGHT_FD, act="start")[-1]
    after = recording.some(F.SET_INFLIGHT_FD, act=CONT)[0]
    files = [[fd.identity for fd in each.fds] for each in (before, after)]
    same = files[0] == files[1] and before.payload == after.payload
    check(same, f"the file {files[0]}", f"{after}: {files[1]}")


@inflight.case(1208, "The region is given back as the back-end gave it: file, size and offset")
def as_given(fe: FrontEnd) -> None:
    recording = fe.plain()
    recording.some(F.GET_INFLIGHT_FD)
    if not recording.regions:
        unsupported("the suite gave none")
    given = {(area.mmap_size, area.mmap_offset, file.identity) for area, file in recording.regions}
    all_of(
        recording.some(F.SET_INFLIGHT_FD),
        lambda each: (
            (_region(each).mmap_size, _region(each).mmap_offset, each.fds and each.fds[0].identity)
            in given
        ),
        f"one of {sorted(given)} (size, offset, file)",
    )


@inflight.case(1209, "The region has room for each ring that is used, and for all of it")
def room_for_all(fe: FrontEnd) -> None:
    recording = fe.plain()
    asked = _region(recording.some(F.GET_INFLIGHT_FD)[-1])
    all_of(
        recording.some(F.SET_VRING_NUM),
        lambda each: each.state.index < asked.num_queues and each.state.num <= asked.queue_size,
        f"rings within {asked.num_queues} of {asked.queue_size}, as GET_INFLIGHT_FD said",
    )


@inflight.case(1210, "The region that is given back can be mapped, shared and for writing")
def region_mappable(fe: FrontEnd) -> None:
    recording = fe.plain()
    all_of(
        recording.some(F.SET_INFLIGHT_FD),
        lambda each: each.at not in recording.unmapped,
        "a file that the back-end can write its notes into",
    )


@inflight.case(1206, "A back-end that has no region to give is no reason to crash")
def no_region(fe: FrontEnd) -> None:
    def react(session: ScriptedSession, message: Message) -> None:
        session.mark("no region")
        session.reply(message.id, Inflight(0, 0, 0, 0).pack())

    fe.plain().some(F.GET_INFLIGHT_FD)
    fe.reacting("no region", F.GET_INFLIGHT_FD, react).since("no region")
