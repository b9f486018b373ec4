"""VU-F-17xx: back-ends that fail, send invalid replies, or are replaced by another one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vhost_user_conformance.front_end.acts import END, START, STOP
from vhost_user_conformance.front_end.recording import F
from vhost_user_conformance.front_end.script import REPLY_FLAGS, Script
from vhost_user_conformance.front_end.tester import all_of
from vhost_user_conformance.model.case import FRONT_END, Area
from vhost_user_conformance.model.verdict import check, observed, unsupported

if TYPE_CHECKING:
    from vhost_user_conformance.front_end.recording import Recording
    from vhost_user_conformance.front_end.script import ScriptedSession
    from vhost_user_conformance.front_end.tester import FrontEnd
    from vhost_user_conformance.peer.wire import Message


from typing import TYPE_CHECKING

from vhost_user.features import (
    VHOST_F_LOG_ALL,
    VIRTIO_RING_F_EVENT_IDX,
    VIRTIO_RING_F_INDIRECT_DESC,
)
from vhost_user_conformance.front_end.acts import ASKED

if TYPE_CHECKING:
    from vhost_user_conformance.front_end.recording import Recording
    from vhost_user_conformance.front_end.script import ScriptedSession
    from vhost_user_conformance.front_end.tester import FrontEnd

area = Area("errors", FRONT_END, "Communication")
#: Messages at which a back-end may die; each front-end sends them.
MOMENTS = (
    F.GET_FEATURES,
    F.SET_FEATURES,
    F.SET_OWNER,
    F.SET_MEM_TABLE,
    F.SET_VRING_ADDR,
    F.SET_VRING_KICK,
)


def _die(session: ScriptedSession, _message: Message) -> None:
    session.mark("the back-end dies")
    session.hang_up()


def _dies_at(fe: FrontEnd, number: F) -> Recording:
    fe.plain().some(number)
    return fe.reacting(f"the back-end dies at {number.name}", number, _die)


@area.each(1701, MOMENTS, "A back-end that dies at {0.name} does not take the front-end along")
def dies(fe: FrontEnd, number: F) -> None:
    _dies_at(fe, number).since("the back-end dies")


@area.case(1708, "A back-end that dies at GET_VRING_BASE does not take the front-end along")
def dies_at_stop(fe: FrontEnd) -> None:
    fe.plain().some(F.GET_VRING_BASE)
    script = Script(
        "the back-end dies at the stop", (START, STOP), reactions=((F.GET_VRING_BASE, _die),)
    )
    fe.session(script)


@area.case(1709, "What a front-end does when its back-end is gone", spec="Communication")
def comes_back(fe: FrontEnd) -> None:
    recording = _dies_at(fe, F.SET_VRING_KICK)
    recording.since("the back-end dies")
    if recording.ended:
        observed(f"its program ended {recording.ended}")
    observed("it connects anew" if recording.again else "it goes on without")


@area.case(1710, "The front-end ends well when it is told to")
def ends_well(fe: FrontEnd) -> None:
    recording = fe.plain()
    recording.did(END)
    check(not recording.crashed, "the program to end", f"it ended {recording.ended}")
    check(recording.ended, "the program to end", "it runs on after SIGTERM")


@area.case(1711, "The front-end does not close a connection that nothing is wrong with")
def stays(fe: FrontEnd) -> None:
    recording = fe.plain()
    recording.started()
    check(not recording.left, "the connection to stay open", "the front-end closed it")


@area.case(1715, "A back-end with which nothing is wrong is not given up")
def not_given_up(fe: FrontEnd) -> None:
    recording = fe.plain()
    if not recording.messages:
        unsupported("the front-end said nothing")
    why = recording.ended or "the front-end closed the connection"
    check(START in recording.acts or not recording.left, "a ring to be started", why)


@area.case(1716, "What is set up is started: a front-end does not stop half-way")
def gone_through_with(fe: FrontEnd) -> None:
    """One that waits for a reply that nobody owes it says nothing more, and closes nothing."""
    recording = fe.plain()
    begun = recording.some(F.SET_MEM_TABLE, F.ADD_MEM_REG, F.SET_VRING_ADDR)[0]
    if START in recording.acts:
        return
    last = recording.messages[-1]
    check(recording.of(F.SET_VRING_KICK), f"SET_VRING_KICK after {begun}", f"{last} was the last")


@area.case(1712, "A descriptor that comes with a reply that has none is no reason to crash")
def stray_descriptor(fe: FrontEnd) -> None:
    def react(session: ScriptedSession, message: Message) -> None:
        payload, _ = session.reply_to(message)
        session.mark("a stray descriptor")
        session.reply(message.id, payload, (session.wire.fileno(),))

    fe.reacting("a stray descriptor", F.GET_FEATURES, react).since("a stray descriptor")


@area.case(1713, "Random bytes instead of a reply are no reason to crash, or to go on")
def random_bytes(fe: FrontEnd) -> None:
    def react(session: ScriptedSession, _message: Message) -> None:
        session.mark("random bytes")
        session.wire.send_bytes(bytes((index * 73 + 41) % 256 for index in range(64)))

    since = fe.reacting("random bytes", F.GET_FEATURES, react).since("random bytes")
    further = [each for each in since if each.id != F.GET_FEATURES]
    check(not further, "the reply to be refused", f"it went on with {further[:1]}")


@area.case(1714, "A reply that nobody asked for is no reason to crash")
def unasked(fe: FrontEnd) -> None:
    def react(session: ScriptedSession, message: Message) -> None:
        session.mark("a reply that nobody asked for")
        session.reply(F.SET_OWNER, bytes(8), flags=REPLY_FLAGS)
        session.answer(message)

    fe.reacting("a reply that nobody asked for", F.SET_OWNER, react).since(
        "a reply that nobody asked for"
    )


LOG_ALL = 1 << VHOST_F_LOG_ALL
#: Features that many drivers use, and that the next back-end may lack.
LESS = 1 << VIRTIO_RING_F_EVENT_IDX | 1 << VIRTIO_RING_F_INDIRECT_DESC
#: What a back-end that has just been started knows nothing of.
SAID_ANEW = (
    F.SET_OWNER,
    F.SET_FEATURES,
    F.SET_PROTOCOL_FEATURES,
    F.SET_MEM_TABLE,
    F.SET_VRING_NUM,
    F.SET_VRING_BASE,
    F.SET_VRING_ADDR,
    F.SET_VRING_CALL,
    F.SET_VRING_KICK,
    F.SET_VRING_ENABLE,
)


def _goes(session: ScriptedSession) -> None:
    """The back-end goes, in the middle of its work."""
    session.mark("the back-end goes")
    session.hang_up()


GONE = Script("the back-end goes, and another one comes", (START, ASKED), asks=_goes, returns=True)


def _both(fe: FrontEnd, script: Script = GONE) -> tuple[Recording, Recording]:
    """The session in which the back-end went, and the one after that.

    Raises:
        Unsupported: there is no other one.
    """
    first = fe.session(script)
    first.did(ASKED)
    if first.second is None or not first.second.messages:
        unsupported("the front-end does not connect anew when its back-end has gone")
    fe.shown = first.second.transcript
    return first, first.second


@area.each(
    1720, SAID_ANEW, "A front-end that connects anew says {0.name} anew", spec="Communication"
)
def said_anew(fe: FrontEnd, number: F) -> None:
    first, second = _both(fe)
    about = {each.ring for each in first.some(number) if each.ring is not None}
    again = {each.ring for each in second.of(number) if each.ring is not None}
    rings = f" for rings {sorted(about)}" if about else ""
    seen = f"for rings {sorted(again)}" if again else "it did not come"
    check(second.of(number) and about <= again, f"{number.name}{rings}", seen)


@area.case(1730, "Its guest has the same features as before", spec="virtio 1.3, 3.1")
def same_features(fe: FrontEnd) -> None:
    first, second = _both(fe)
    before, after = (each.some(F.SET_FEATURES)[-1] for each in (first, second))
    wanted = before.u64 & ~LOG_ALL
    check(after.u64 & ~LOG_ALL == wanted, f"{wanted:#x}", f"{after}: {after.u64:#x}")


@area.case(1731, "It gives the in-flight region to the next back-end", spec="Inflight I/O tracking")
def region_given(fe: FrontEnd) -> None:
    first, second = _both(fe)
    before = first.some(F.SET_INFLIGHT_FD)[-1]
    kicks = second.some(F.SET_VRING_KICK)
    told = [each for each in second.of(F.SET_INFLIGHT_FD) if each.at < kicks[0].at]
    check(told, "SET_INFLIGHT_FD before SET_VRING_KICK", f"{kicks[0]} without it")
    files = [[fd.identity for fd in each.fds] for each in (before, told[-1])]
    same = files[0] == files[1] and before.payload == told[-1].payload
    check(same, f"the region of before, in the file {files[0]}", f"{told[-1]}: {files[1]}")


@area.case(
    1732,
    "Its rings go on between what was completed and what is available",
    spec="VHOST_USER_SET_VRING_BASE",
)
def bases(fe: FrontEnd) -> None:
    _, second = _both(fe)
    if not second.begun:
        unsupported("no ring is started anew")
    for each in second.begun:
        check(
            (each.base - each.used) & 0xFFFF <= (each.available - each.used) & 0xFFFF,
            f"a base from {each.used} to {each.available}, the indices of ring {each.ring}",
            f"base {each.base}",
        )


@area.case(
    1734,
    "It acknowledges nothing that the next back-end does not offer",
    spec="VHOST_USER_SET_FEATURES",
)
def fewer_features(fe: FrontEnd) -> None:
    """What its guest uses it cannot take back: it may do without that back-end."""
    _, second = _both(fe, GONE._replace(name="the next back-end offers less", second_without=LESS))
    all_of(
        second.of(F.SET_FEATURES),
        lambda each: not each.u64 & LESS,
        f"the bits {LESS:#x} clear, which are not offered",
    )


@area.case(1733, "Whether its guest goes on", spec="what a back-end noted it serves by itself")
def goes_on(fe: FrontEnd) -> None:
    _, second = _both(fe)
    if START in second.undone:
        observed(f"rings are not kicked again: {second.undone[START]}")
    observed("it makes requests" if second.chains else "its rings run, and no request comes")
