"""VU-F-09xx: configuration space."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from vhost_user_conformance.front_end.acts import START
from vhost_user_conformance.front_end.recording import F
from vhost_user_conformance.front_end.tester import all_of
from vhost_user_conformance.model.case import FRONT_END, Area
from vhost_user_conformance.model.verdict import check

if TYPE_CHECKING:
    from vhost_user_conformance.front_end.recording import Received, Recording
    from vhost_user_conformance.front_end.script import ScriptedSession
    from vhost_user_conformance.front_end.tester import FrontEnd
    from vhost_user_conformance.peer.wire import Message


area = Area("config", FRONT_END, "VHOST_USER_GET_CONFIG", needs=("CONFIG",))
CONFIG_SPACE = 256


def _span(each: Received) -> tuple[int, int, int]:
    return (
        int.from_bytes(each.payload[:4], "little"),
        int.from_bytes(each.payload[4:8], "little"),
        int.from_bytes(each.payload[8:12], "little"),
    )


@area.case(901, "GET_CONFIG requests a range of the first 256 bytes")
def in_space(fe: FrontEnd) -> None:
    all_of(
        fe.plain().some(F.GET_CONFIG),
        lambda each: sum(_span(each)[:2]) <= CONFIG_SPACE and _span(each)[1] > 0,
        "an offset and a size within 256 bytes",
    )


@area.case(902, "The payload of GET_CONFIG is as large as the requested range")
def room(fe: FrontEnd) -> None:
    all_of(
        fe.plain().some(F.GET_CONFIG),
        lambda each: len(each.payload) == 12 + _span(each)[1],
        "12 bytes and the requested size",
    )


@area.case(903, "GET_CONFIG has no flags")
def no_flags(fe: FrontEnd) -> None:
    all_of(fe.plain().some(F.GET_CONFIG), lambda each: _span(each)[2] == 0, "flags 0")


@area.case(904, "SET_CONFIG has flags 0 or 1", spec="VHOST_USER_SET_CONFIG")
def set_flags(fe: FrontEnd) -> None:
    all_of(fe.plain().some(F.SET_CONFIG), lambda each: _span(each)[2] <= 1, "flags 0 or 1")


@area.case(908, "SET_CONFIG has flags 0 outside of a migration", spec="Virtio device config space")
def no_migration(fe: FrontEnd) -> None:
    recording = fe.plain()
    recording.some(F.SET_CONFIG)
    all_of(recording.of(F.SET_CONFIG, act=START), lambda each: _span(each)[2] == 0, "flags 0")


@area.case(909, "SET_CONFIG changes a range of the first 256 bytes")
def change_in_space(fe: FrontEnd) -> None:
    all_of(
        fe.plain().some(F.SET_CONFIG),
        lambda each: sum(_span(each)[:2]) <= CONFIG_SPACE and _span(each)[1] > 0,
        "an offset and a size within 256 bytes",
    )


def _bad_config(fe: FrontEnd, name: str, payload: bytes) -> Recording:
    def react(session: ScriptedSession, message: Message) -> None:
        session.mark(name)
        session.reply(message.id, payload)

    fe.plain().some(F.GET_CONFIG)
    return fe.reacting(name, F.GET_CONFIG, react)


@area.case(905, "An empty reply to GET_CONFIG is an error: no ring is started on it")
def empty_reply(fe: FrontEnd) -> None:
    since = _bad_config(fe, "an empty configuration space", b"").since(
        "an empty configuration space"
    )
    kicks = [each for each in since if each.id == F.SET_VRING_KICK]
    check(not kicks, "no SET_VRING_KICK", f"{kicks[:1]}")


@area.case(906, "A reply to GET_CONFIG that is larger than requested is not accepted")
def large_reply(fe: FrontEnd) -> None:
    name = "a configuration space of 1 KiB"
    since = _bad_config(fe, name, bytes(4) + (1012).to_bytes(4, "little") + bytes(1016)).since(name)
    kicks = [each for each in since if each.id == F.SET_VRING_KICK]
    check(not kicks, "no SET_VRING_KICK", f"{kicks[:1]}")


@area.case(907, "A reply to GET_CONFIG that is shorter than requested is not accepted")
def short_reply(fe: FrontEnd) -> None:
    def react(session: ScriptedSession, message: Message) -> None:
        session.mark("half of the configuration space")
        _, size, flags = struct.unpack_from("<III", message.payload)
        half = session.reply_to(message)[0][12 : 12 + size // 2]
        session.reply(message.id, struct.pack("<III", 0, len(half), flags) + half)

    all_of(fe.plain().some(F.GET_CONFIG), lambda each: _span(each)[1] > 1, "at least two bytes")
    name = "half of the configuration space"
    since = fe.reacting(name, F.GET_CONFIG, react).since(name)
    kicks = [each for each in since if each.id == F.SET_VRING_KICK]
    check(not kicks, "no SET_VRING_KICK", f"{kicks[:1]}")
