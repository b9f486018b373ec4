"""VU-F-04xx: setup, start and stop of rings."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from vhost_user.features import VHOST_USER_F_PROTOCOL_FEATURES
from vhost_user_conformance.front_end.acts import CONT, END, START, STOP
from vhost_user_conformance.front_end.recording import STOPS, F
from vhost_user_conformance.front_end.script import MIGRATED, Script
from vhost_user_conformance.front_end.tester import all_of
from vhost_user_conformance.model.case import FRONT_END, Area
from vhost_user_conformance.model.verdict import (
    Severity,
    check,
    observed,
    unsupported,
)

if TYPE_CHECKING:
    from vhost_user_conformance.front_end.recording import Received
    from vhost_user_conformance.front_end.tester import FrontEnd

area = Area("rings", FRONT_END, "Ring states")

PROTOCOL_BIT = 1 << VHOST_USER_F_PROTOCOL_FEATURES
SET_UP = (F.SET_VRING_NUM, F.SET_VRING_BASE, F.SET_VRING_ADDR)
#: virtio 1.3, 2.7: the maximum size of a ring.
LARGEST_RING = 32768
ALIGNMENT = {"desc": 16, "avail": 2, "used": 4}


@area.case(401, "SET_VRING_NUM comes before the ring's SET_VRING_KICK")
def size_first(fe: FrontEnd) -> None:
    _comes_before_kick(fe, F.SET_VRING_NUM)


@area.case(402, "SET_VRING_BASE comes before an enabled ring has its SET_VRING_KICK")
def base_first(fe: FrontEnd) -> None:
    recording = fe.plain()
    recording.first(F.SET_VRING_KICK)
    for ring, messages in recording.rings().items():
        # Without bit 30 all rings are enabled. The base of a disabled ring, which is not served,
        # may come late: it is known late at the destination of a migration.
        based, kicked, enabled = False, False, not (messages[0].features or 0) & PROTOCOL_BIT
        for each in messages:
            if each.id in STOPS:
                based = kicked = False
            based |= each.id == F.SET_VRING_BASE
            kicked |= each.id == F.SET_VRING_KICK
            if each.id == F.SET_VRING_ENABLE:
                enabled = bool(each.state.num)
            check(based or not (kicked and enabled), f"SET_VRING_BASE of ring {ring}", f"{each}")


@area.case(403, "SET_VRING_ADDR comes before the ring's SET_VRING_KICK")
def addresses_first(fe: FrontEnd) -> None:
    _comes_before_kick(fe, F.SET_VRING_ADDR)


def _comes_before_kick(fe: FrontEnd, number: F) -> None:
    recording = fe.plain()
    recording.first(F.SET_VRING_KICK)
    for ring, messages in recording.starts():
        names = [each.name for each in messages]
        check(number.name in names, f"{number.name} of ring {ring}", f"only {', '.join(names)}")


@area.each(
    424,
    (*SET_UP, F.SET_VRING_CALL, F.SET_VRING_ENABLE),
    "{0.name} is sent to the destination of a migration for each ring that ran at the source",
)
def set_up_at_destination(fe: FrontEnd, number: F) -> None:
    recording = fe.session(MIGRATED)
    there = recording.arrived()
    if number == F.SET_VRING_ENABLE and not (there.messages[-1].features or 0) & PROTOCOL_BIT:
        unsupported("without bit 30 all rings are enabled")
    ran = recording.running_at_migration()
    came = {each.ring for each in there.of(number)}
    check(ran <= came, f"{number.name} of rings {ran}", f"of {came or 'none'}")


@area.case(404, "A ring's size is a power of 2 and at most 32768", spec="virtio 1.3, 2.7")
def ring_size(fe: FrontEnd) -> None:
    all_of(
        fe.plain().some(F.SET_VRING_NUM),
        lambda each: 0 < each.state.num <= LARGEST_RING and not each.state.num & each.state.num - 1,
        "a power of 2, at most 32768",
    )


@area.each(405, ALIGNMENT, "A ring's {} part is aligned", spec="virtio 1.3, 2.7")
def alignment(fe: FrontEnd, part: str) -> None:
    step = ALIGNMENT[part]
    all_of(
        fe.plain().some(F.SET_VRING_ADDR),
        lambda each: getattr(each.address, part) % step == 0,
        f"a multiple of {step}",
    )


@area.case(
    408, "SET_VRING_ADDR has no flag except bit 0 (F_LOG)", spec="A vring address description"
)
def address_flags(fe: FrontEnd) -> None:
    all_of(fe.plain().some(F.SET_VRING_ADDR), lambda each: each.address.flags <= 1, "flags 0 or 1")


@area.case(409, "SET_VRING_ENABLE has 0 or 1", spec="VHOST_USER_SET_VRING_ENABLE")
def enable_value(fe: FrontEnd) -> None:
    all_of(fe.plain().some(F.SET_VRING_ENABLE), lambda each: each.state.num <= 1, "0 or 1")


@area.case(410, "With bit 30 each ring that is started is enabled, before or after")
def enabled(fe: FrontEnd) -> None:
    recording = fe.plain()
    recording.started()
    kicks = recording.of(F.SET_VRING_KICK)
    if not (kicks[0].features or 0) & PROTOCOL_BIT:
        unsupported("the front-end does not acknowledge bit 30: its rings are always enabled")
    enables = recording.of(F.SET_VRING_ENABLE)
    on = {each.state.ring for each in enables if each.state.num}
    off = {each.state.ring for each in enables} - on
    for each in kicks:
        check(each.ring in on | off, f"SET_VRING_ENABLE for ring {each.ring}", f"{each} without it")
    unused = sorted({each.ring for each in kicks if each.ring is not None} & off)
    check(on, "SET_VRING_ENABLE 1 for a ring", f"only rings {unused}, which are disabled")
    if unused:
        # A NIC's guest may not use all pairs; such a ring runs without side effects.
        observed(f"rings {unused} are started and stay disabled")


@area.case(411, "Each ring that was started is stopped by GET_VRING_BASE when the VM stops")
def stopped(fe: FrontEnd) -> None:
    recording = fe.plain()
    recording.did(STOP)
    started = {each.ring for each in recording.of(F.SET_VRING_KICK, act="start")}
    ended = {each.state.ring for each in recording.of(*STOPS, act=STOP)}
    check(started <= ended, f"GET_VRING_BASE of rings {sorted(map(str, started))}", f"{ended}")


@area.case(
    412,
    "Each ring that was started is stopped when the front-end is asked to end",
    severity=Severity.SHOULD,
)
def stopped_at_end(fe: FrontEnd) -> None:
    recording = fe.plain()
    recording.started()
    recording.did(END)
    running = recording.running(len(recording.messages))
    if running and recording.ended.startswith("by SIGTERM"):
        observed("SIGTERM ends the program at once, with its rings")
    check(not running, "no running ring", f"rings {running} were not stopped")


@area.case(413, "GET_VRING_BASE is sent only for rings that were started")
def stop_started(fe: FrontEnd) -> None:
    recording = fe.plain()
    known = {each.ring for each in recording.some(F.SET_VRING_KICK)}
    unstarted = [each for each in recording.some(*STOPS) if each.state.ring not in known]
    if unstarted:
        observed(f"{unstarted[0]} of ring {unstarted[0].state.ring}, which was never started")


@area.each(
    414,
    (F.SET_VRING_KICK, F.SET_VRING_CALL),
    "After GET_VRING_BASE a ring is started again only with a new {0.name}",
)
def notifiers_again(fe: FrontEnd, number: F) -> None:
    recording = fe.plain()
    recording.did(CONT)
    stops: set[int] = set()
    for each in recording.messages:
        if each.id in STOPS:
            stops.add(each.state.ring)
    again = {each.ring for each in recording.of(number, act=CONT)}
    restarted = {each.ring for each in recording.of(*SET_UP, act=CONT)} & stops
    check(restarted <= again, f"{number.name} of rings {restarted}", f"only of {again}")


@area.case(416, "Each ring that ran before runs again when the VM continues")
def runs_again(fe: FrontEnd) -> None:
    recording = fe.plain()
    recording.did(CONT)
    before = {each.ring for each in recording.of(F.SET_VRING_KICK, act="start")}
    after = {each.ring for each in recording.of(F.SET_VRING_KICK, act=CONT)}
    check(before <= after, f"SET_VRING_KICK of rings {before}", f"of {after}")


@area.case(417, "A ring has the same size and addresses when the VM continues")
def same_ring(fe: FrontEnd) -> None:
    recording = fe.plain()
    recording.did(CONT)
    for number in (F.SET_VRING_NUM, F.SET_VRING_ADDR):
        before = {each.ring: _layout(each) for each in recording.of(number, act="start")}
        for each in recording.of(number, act=CONT):
            check(
                _layout(each) == before.get(each.ring, _layout(each)),
                f"{number.name} of ring {each.ring} as before",
                f"{each}: {_layout(each)}, and before {before.get(each.ring)}",
            )


def _layout(each: Received) -> tuple[int, ...]:
    if each.id == F.SET_VRING_NUM:
        return (each.state.num,)
    address = each.address
    return (address.desc, address.avail, address.used)


@area.case(418, "No SET_VRING_ENABLE is sent for a ring that does not exist")
def enable_index(fe: FrontEnd) -> None:
    limit = _ring_limit(fe)
    all_of(
        fe.plain().some(F.SET_VRING_ENABLE),
        lambda each: each.state.ring < limit,
        f"a ring below {limit}",
    )


def _ring_limit(fe: FrontEnd) -> int:
    """The reply to GET_QUEUE_NUM, in pairs for a NIC, which may also have a control queue."""
    return fe.device_class.ring_limit(Script("").queues)


@area.case(419, "No message is about a ring beyond the number that the back-end reports")
def ring_index(fe: FrontEnd) -> None:
    limit = _ring_limit(fe)
    messages = [each for each in fe.plain().messages if each.ring is not None]
    if not messages:
        unsupported("the front-end sends no message about a ring")
    all_of(messages, lambda each: each.ring is not None and each.ring < limit, f"below {limit}")


@area.case(
    420,
    "SET_VRING_CALL is sent for each started ring, with a descriptor or without",
    spec="VHOST_USER_SET_VRING_CALL; DPDK's library starts no ring before it",
    severity=Severity.SHOULD,
)
def call_set(fe: FrontEnd) -> None:
    recording = fe.plain()
    recording.started()
    kicked = {each.ring for each in recording.some(F.SET_VRING_KICK) if each.act == START}
    set_ = {each.ring for each in recording.of(F.SET_VRING_CALL, act=START)}
    check(kicked <= set_, f"SET_VRING_CALL of rings {kicked}", f"of {set_ or 'none'}")


@area.case(
    421, "A ring that was enabled is enabled when the VM continues", severity=Severity.SHOULD
)
def enabled_again(fe: FrontEnd) -> None:
    recording = fe.plain()
    recording.did(CONT)
    recording.some(F.SET_VRING_ENABLE)
    on: dict[int, bool] = {}
    before: set[int] = set()
    for each in recording.messages:
        if each.act == CONT and not before:
            before = {ring for ring, enabled in on.items() if enabled}
        if each.act not in (START, STOP, CONT):
            break
        if each.id == F.SET_VRING_ENABLE:
            on[each.state.ring] = bool(each.state.num)
    again = {each.ring for each in recording.of(F.SET_VRING_KICK, act=CONT)}
    off = {ring for ring in before & again if not on[ring]}
    check(not off, f"rings {before} enabled, as before", f"rings {off} are started and disabled")


@area.case(422, "The addresses of a ring do not change while it runs")
def stay(fe: FrontEnd) -> None:
    recording = fe.plain()
    layouts: dict[int | None, tuple[int, ...]] = {}
    for each in recording.some(F.SET_VRING_ADDR):
        if each.ring in recording.running(each.at):
            before = layouts.get(each.ring, _layout(each))
            check(_layout(each) == before, f"{before}, as at the start", f"{each}: {_layout(each)}")
        layouts[each.ring] = _layout(each)


@area.case(423, "The parts of a ring do not overlap", spec="virtio 1.3, 2.7")
def apart(fe: FrontEnd) -> None:
    recording = fe.plain()
    recording.some(F.SET_VRING_ADDR)
    sizes: dict[int, int] = {}
    for each in recording.of(F.SET_VRING_NUM, F.SET_VRING_ADDR):
        if each.id == F.SET_VRING_NUM:
            sizes[each.state.ring] = each.state.num
            continue
        size, at = sizes.get(each.address.ring, 0), each.address
        parts = sorted(((at.desc, 16 * size), (at.avail, 4 + 2 * size), (at.used, 4 + 8 * size)))
        for (start, length), (following, _) in pairwise(parts):
            check(
                start + length <= following,
                f"parts that do not overlap, in a ring of {size}",
                f"{each}: {length} bytes at {start:#x}, and another at {following:#x}",
            )
