"""VU-F-06xx: the base at which a ring starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vhost_user.payloads import VringState
from vhost_user_conformance.front_end.acts import CONT
from vhost_user_conformance.front_end.recording import F
from vhost_user_conformance.front_end.script import MIGRATED, SUSPENDING, Script
from vhost_user_conformance.front_end.tester import all_of
from vhost_user_conformance.model.case import FRONT_END, Area
from vhost_user_conformance.model.verdict import (
    check,
    unsupported,
)

if TYPE_CHECKING:
    from vhost_user_conformance.front_end.script import ScriptedSession
    from vhost_user_conformance.front_end.tester import FrontEnd
    from vhost_user_conformance.peer.wire import Message


area = Area("bases", FRONT_END, "VHOST_USER_GET_VRING_BASE")


@area.case(
    601, "GET_VRING_BASE has 0 in its reserved field", spec="VHOST_USER_GET_VRING_BASE; c7f2181661"
)
def reserved_zero(fe: FrontEnd) -> None:
    all_of(fe.plain().some(F.GET_VRING_BASE), lambda each: each.state.num == 0, "num 0")


@area.case(
    610,
    "GET_VRING_BASE_SKIP_DRAIN has 0 in its reserved field",
    spec="VHOST_USER_GET_VRING_BASE_SKIP_DRAIN",
)
def reserved_zero_skip_drain(fe: FrontEnd) -> None:
    stops = fe.session(SUSPENDING).some(F.GET_VRING_BASE_SKIP_DRAIN)
    all_of(stops, lambda each: each.state.num == 0, "num 0")


@area.case(602, "A split ring's base has no bit above 15 set", spec="VHOST_USER_SET_VRING_BASE")
def base_range(fe: FrontEnd) -> None:
    all_of(fe.plain().some(F.SET_VRING_BASE), lambda each: each.state.num < 1 << 16, "16 bits")


@area.case(603, "A ring continues at the base that GET_VRING_BASE returned")
def base_restored(fe: FrontEnd) -> None:
    recording = fe.plain()
    recording.did(CONT)
    compared = 0
    for each in recording.of(F.SET_VRING_BASE, act=CONT):
        earlier = [one for one in recording.bases if one.ring == each.ring and one.at < each.at]
        if earlier:
            compared += 1
            check(each.state.num == earlier[-1].base, f"base {earlier[-1].base}", f"{each.state}")
    check(compared, "SET_VRING_BASE of a ring that was stopped", "none came")


@area.case(611, "At the destination of a migration a ring continues at the source's base")
def base_migrated(fe: FrontEnd) -> None:
    recording = fe.session(MIGRATED)
    there = recording.arrived()
    wanted = {one.ring: one.base for one in recording.bases}
    if not any(wanted.values()):
        unsupported("no ring had a base other than 0")
    for each in there.some(F.SET_VRING_BASE):
        base = wanted.get(each.state.ring, each.state.num)
        check(each.state.num == base, f"base {base} of ring {each.state.ring}", f"{each.state.num}")


@area.case(
    612, "The used index at the destination of a migration is the one that the source's ring had"
)
def used_migrated(fe: FrontEnd) -> None:
    recording = fe.session(MIGRATED)
    there = recording.arrived()
    # All that was taken was completed before the migration began.
    wanted = {one.ring: one.base for one in recording.bases}
    if not any(wanted.values()):
        unsupported("no ring had a base other than 0")
    for start in there.ring_starts:
        used = wanted.get(start.ring, start.used)
        check(start.used == used, f"used index {used} of ring {start.ring}", f"{start.used}")


@area.case(604, "An arbitrary base is sent back unchanged")
def arbitrary_base(fe: FrontEnd) -> None:
    _check_restored(fe, "an arbitrary base", 0x1230)


def _check_restored(fe: FrontEnd, name: str, base: int) -> None:
    def react(session: ScriptedSession, message: Message) -> None:
        session.reply_to(message)
        index = VringState.unpack(message.payload).ring
        session.reply(message.id, VringState(index, base + index).pack())

    recording = fe.session(
        Script(
            name,
            ("start", "stop", "cont"),
            reactions=((F.GET_VRING_BASE, react),),
        )
    )
    recording.did(CONT)
    for each in recording.some(F.SET_VRING_BASE, act=CONT):
        if each.state.ring in {one.ring for one in recording.bases}:
            wanted = base + each.state.ring
            check(each.state.num == wanted, f"base {wanted:#x}", f"{each.state.num:#x}")


@area.case(608, "A base that uses all 16 bits is sent back unchanged")
def large_base(fe: FrontEnd) -> None:
    _check_restored(fe, "a 16-bit base", 0xFFF0)


@area.case(609, "A ring's base lies between its used and its available index")
def begins_inside(fe: FrontEnd) -> None:
    recording = fe.plain()
    recording.started()
    if not recording.ring_starts:
        unsupported("no ring was in shared memory when it was started")
    for each in recording.ring_starts:
        start = recording.messages[each.at]
        check(
            (each.base - each.used) & 0xFFFF <= (each.available - each.used) & 0xFFFF,
            f"a base from {each.used} to {each.available}, the indices of ring {each.ring}",
            f"{start}: base {each.base}",
        )


@area.case(605, "A base in a reply with another id is not accepted", spec="Header")
def base_of_another(fe: FrontEnd) -> None:
    def react(session: ScriptedSession, message: Message) -> None:
        session.reply_to(message)
        index = VringState.unpack(message.payload).ring
        session.reply(F.GET_FEATURES, VringState(index, 0x1230).pack())

    recording = fe.session(
        Script(
            "a base in a reply with another id",
            ("start", "stop", "cont"),
            reactions=((F.GET_VRING_BASE, react),),
        )
    )
    recording.some(F.GET_VRING_BASE)
    all_of(
        recording.of(F.SET_VRING_BASE, act=CONT),
        lambda each: each.state.num != 0x1230,
        "a base other than that of a reply with another id",
    )


@area.case(606, "A ring that was reset begins at 0")
def base_after_reset(fe: FrontEnd) -> None:
    recording = fe.plain()
    recording.did("reset")
    all_of(
        recording.some(F.SET_VRING_BASE, act="reset"), lambda each: each.state.num == 0, "base 0"
    )


@area.case(607, "No SET_VRING_BASE is sent for a running ring")
def not_while_running(fe: FrontEnd) -> None:
    recording = fe.plain()
    for each in recording.some(F.SET_VRING_BASE):
        running = recording.running(each.at)
        check(each.ring not in running, "GET_VRING_BASE before it", f"{each}")
