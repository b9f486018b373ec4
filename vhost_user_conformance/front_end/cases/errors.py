"""VU-F-17xx: back-ends that fail, send invalid replies, or are replaced by another one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vhost_user.features import (
    VHOST_F_LOG_ALL,
    VIRTIO_RING_F_EVENT_IDX,
    VIRTIO_RING_F_INDIRECT_DESC,
    ProtocolFeature,
)
from vhost_user_conformance.front_end.acts import ASKED, END, START, STOP
from vhost_user_conformance.front_end.recording import REGARDLESS, F
from vhost_user_conformance.front_end.script import REPLY_FLAGS, Script
from vhost_user_conformance.front_end.tester import all_of
from vhost_user_conformance.model.case import FRONT_END, Area
from vhost_user_conformance.model.verdict import Severity, check, observed, unsupported

if TYPE_CHECKING:
    from vhost_user_conformance.front_end.recording import Recording
    from vhost_user_conformance.front_end.script import ScriptedSession
    from vhost_user_conformance.front_end.tester import FrontEnd
    from vhost_user_conformance.peer.wire import Message

area = Area("errors", FRONT_END, "Communication")
#: Messages at which the back-end ends; each front-end sends them.
FATAL_MESSAGES = (
    F.GET_FEATURES,
    F.SET_FEATURES,
    F.SET_OWNER,
    F.SET_MEM_TABLE,
    F.SET_VRING_ADDR,
    F.SET_VRING_KICK,
)


def _end(session: ScriptedSession, _message: Message) -> None:
    session.mark("the back-end ends")
    session.hang_up()


def _ends_at(fe: FrontEnd, number: F) -> Recording:
    fe.plain().some(number)
    return fe.reacting(f"the back-end ends at {number.name}", number, _end)


@area.each(1701, FATAL_MESSAGES, "The front-end continues after its back-end ended at {0.name}")
def back_end_ends(fe: FrontEnd, number: F) -> None:
    _ends_at(fe, number).since("the back-end ends")


@area.case(1708, "The front-end continues after its back-end ended at GET_VRING_BASE")
def ends_at_stop(fe: FrontEnd) -> None:
    fe.plain().some(F.GET_VRING_BASE)
    script = Script(
        "the back-end ends at the stop", (START, STOP), reactions=((F.GET_VRING_BASE, _end),)
    )
    fe.session(script)


@area.case(1709, "The reaction of a front-end to the end of its back-end", spec="Communication")
def reconnects(fe: FrontEnd) -> None:
    recording = _ends_at(fe, F.SET_VRING_KICK)
    recording.since("the back-end ends")
    if recording.ended:
        observed(f"its program ended {recording.ended}")
    observed("it reconnects" if recording.reconnected else "it continues without a back-end")


@area.case(1710, "The front-end ends normally on SIGTERM")
def ends_well(fe: FrontEnd) -> None:
    recording = fe.plain()
    recording.did(END)
    check(not recording.crashed, "the program to end normally", f"it ended {recording.ended}")
    check(recording.ended, "the program to end", "it still runs after SIGTERM")


@area.case(1711, "The front-end does not close the connection of a correct back-end")
def stays(fe: FrontEnd) -> None:
    recording = fe.plain()
    recording.started()
    check(not recording.left, "the connection to stay open", "the front-end closed it")


@area.case(1715, "A correct back-end is used until a ring is started")
def stays_until_start(fe: FrontEnd) -> None:
    recording = fe.plain()
    if not recording.messages:
        unsupported("the front-end sent nothing")
    why = recording.ended or "the front-end closed the connection"
    check(START in recording.acts or not recording.left, "a ring to be started", why)


@area.case(1716, "A ring is started after the front-end has begun to set it up")
def start_completed(fe: FrontEnd) -> None:
    """A front-end that waits for a reply that is not due sends nothing and keeps the connection."""
    recording = fe.plain()
    begun = recording.some(F.SET_MEM_TABLE, F.ADD_MEM_REG, F.SET_VRING_ADDR)[0]
    if START in recording.acts:
        return
    last = recording.messages[-1]
    check(
        recording.of(F.SET_VRING_KICK),
        f"SET_VRING_KICK after {begun}",
        f"{last} was the last message",
    )


@area.case(1712, "The front-end survives a descriptor with a reply that has none")
def stray_descriptor(fe: FrontEnd) -> None:
    def react(session: ScriptedSession, message: Message) -> None:
        payload, _ = session.reply_to(message)
        session.mark("a stray descriptor")
        session.reply(message.id, payload, (session.wire.fileno(),))

    fe.reacting("a stray descriptor", F.GET_FEATURES, react).since("a stray descriptor")


@area.case(1713, "The front-end survives random bytes instead of a reply, and refuses them")
def random_bytes(fe: FrontEnd) -> None:
    def react(session: ScriptedSession, _message: Message) -> None:
        session.mark("random bytes")
        session.wire.send_bytes(bytes((index * 73 + 41) % 256 for index in range(64)))

    since = fe.reacting("random bytes", F.GET_FEATURES, react).since("random bytes")
    further = [each for each in since if each.id != F.GET_FEATURES]
    check(not further, "the reply to be refused", f"it continued with {further[:1]}")


@area.case(1714, "The front-end survives an unsolicited reply")
def unsolicited(fe: FrontEnd) -> None:
    def react(session: ScriptedSession, message: Message) -> None:
        session.mark("an unsolicited reply")
        session.reply(F.SET_OWNER, bytes(8), flags=REPLY_FLAGS)
        session.answer(message)

    fe.reacting("an unsolicited reply", F.SET_OWNER, react).since("an unsolicited reply")


LOG_ALL = 1 << VHOST_F_LOG_ALL
P = ProtocolFeature
#: Number of requests after which a ring's indices have passed its size.
MANY = 1000
#: Seconds in which a driver that has made requests kicks for them.
WHILE = 0.7
#: Features that many drivers use and the next back-end does not offer.
LESS = 1 << VIRTIO_RING_F_EVENT_IDX | 1 << VIRTIO_RING_F_INDIRECT_DESC
#: Messages that a restarted back-end has to be sent again.
SENT_AGAIN = (
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


def _leave(session: ScriptedSession) -> None:
    """The back-end ends while it serves requests."""
    session.mark("the back-end ends")
    session.hang_up()


def _leave_later(session: ScriptedSession) -> None:
    """The back-end ends after it has completed many requests."""
    session.pump(lambda: len(session.recording.chains) >= MANY, session.wire.timeout)
    _leave(session)


GONE = Script("the back-end is replaced", (START, ASKED), asks=_leave, returns=True)
FEWER = GONE._replace(name="the next back-end offers less", second_without=LESS)
LATER = GONE._replace(name="the back-end is replaced after many requests", asks=_leave_later)


def _both(fe: FrontEnd, script: Script = GONE) -> tuple[Recording, Recording]:
    """The session in which the back-end ended, and the one with the next back-end.

    Raises:
        Unsupported: there is no second session.
    """
    first = fe.session(script)
    first.did(ASKED)
    if first.second is None or not first.second.messages:
        unsupported("the front-end does not reconnect after its back-end has ended")
    fe.shown = first.second.transcript
    return first, first.second


@area.each(
    1720, SENT_AGAIN, "A front-end that reconnects sends {0.name} again", spec="Communication"
)
def sent_again(fe: FrontEnd, number: F) -> None:
    first, second = _both(fe)
    about = {each.ring for each in first.some(number) if each.ring is not None}
    again = {each.ring for each in second.of(number) if each.ring is not None}
    rings = f" for rings {sorted(about)}" if about else ""
    seen = f"for rings {sorted(again)}" if again else "it did not come"
    check(second.of(number) and about <= again, f"{number.name}{rings}", seen)


@area.case(1730, "After a reconnection the guest has the same features", spec="virtio 1.3, 3.1")
def same_features(fe: FrontEnd) -> None:
    first, second = _both(fe)
    before, after = (each.some(F.SET_FEATURES)[-1] for each in (first, second))
    wanted = before.u64 & ~LOG_ALL
    check(after.u64 & ~LOG_ALL == wanted, f"{wanted:#x}", f"{after}: {after.u64:#x}")


@area.case(
    1731,
    "After a reconnection the next back-end gets the inflight region",
    spec="Inflight I/O tracking",
)
def region_given(fe: FrontEnd) -> None:
    first, second = _both(fe)
    before = first.some(F.SET_INFLIGHT_FD)[-1]
    kicks = second.some(F.SET_VRING_KICK)
    regions = [each for each in second.of(F.SET_INFLIGHT_FD) if each.at < kicks[0].at]
    check(regions, "SET_INFLIGHT_FD before SET_VRING_KICK", f"{kicks[0]} without it")
    files = [[fd.identity for fd in each.fds] for each in (before, regions[-1])]
    same = files[0] == files[1] and before.payload == regions[-1].payload
    check(same, f"the previous region, in the file {files[0]}", f"{regions[-1]}: {files[1]}")


@area.case(
    1732,
    "After a reconnection a ring's base lies between its used and its available index",
    spec="VHOST_USER_SET_VRING_BASE",
)
def bases(fe: FrontEnd) -> None:
    _, second = _both(fe)
    if not second.ring_starts:
        unsupported("no ring is started again")
    for each in second.ring_starts:
        check(
            (each.base - each.used) & 0xFFFF <= (each.available - each.used) & 0xFFFF,
            f"a base from {each.used} to {each.available}, the indices of ring {each.ring}",
            f"base {each.base}",
        )


@area.case(
    1734,
    "After a reconnection only features that the next back-end offers are acknowledged",
    spec="VHOST_USER_SET_FEATURES",
)
def fewer_features(fe: FrontEnd) -> None:
    """Features that the guest uses stay negotiated: the front-end may refuse that back-end."""
    _, second = _both(fe, FEWER)
    all_of(
        second.of(F.SET_FEATURES),
        lambda each: not each.u64 & LESS,
        f"the bits {LESS:#x} clear, as they are not offered",
    )


@area.case(
    1742,
    "After a reconnection no ring is started without a feature that the guest uses",
    spec="virtio 1.3, 3.1",
)
def used_features(fe: FrontEnd) -> None:
    first, second = _both(fe, FEWER)
    used = first.some(F.SET_FEATURES)[-1].u64 & LESS
    if not used:
        unsupported("the guest uses none of the features that the next back-end lacks")
    kicks = second.of(F.SET_VRING_KICK)
    seen = f"{kicks[:1]} with features {(kicks and kicks[0].features) or 0:#x}"
    check(not kicks, f"no SET_VRING_KICK, as the guest uses {used:#x}", seen)


FEWER_PROTOCOL = GONE._replace(
    name="the next back-end offers fewer protocol features",
    second_protocol_without=int(P.REPLY_ACK | P.LOG_SHMFD),
)


@area.case(
    1735,
    "After a reconnection only protocol features that the next back-end offers are acknowledged",
    spec="Protocol features",
)
def fewer_protocol_features(fe: FrontEnd) -> None:
    _, second = _both(fe, FEWER_PROTOCOL)
    lacking = FEWER_PROTOCOL.second_protocol_without
    all_of(
        second.some(F.SET_PROTOCOL_FEATURES),
        lambda each: not each.u64 & lacking,
        f"the bits {lacking:#x} clear, as they are not offered",
    )


@area.case(
    1736,
    "After a reconnection need_reply is not set where the next back-end has no REPLY_ACK",
    spec="VHOST_USER_PROTOCOL_F_REPLY_ACK",
)
def no_acknowledgements(fe: FrontEnd) -> None:
    _, second = _both(fe, FEWER_PROTOCOL)
    all_of(
        (each for each in second.messages if each.id not in REGARDLESS),
        lambda each: not each.need_reply,
        "need_reply clear",
    )


@area.case(
    1737,
    "After a reconnection to a back-end that offers more the guest has the same features",
    spec="virtio 1.3, 3.1",
)
def more_features(fe: FrontEnd) -> None:
    script = GONE._replace(name="the next back-end offers more", without=LESS)
    first, second = _both(fe, script)
    before = first.some(F.SET_FEATURES)[-1].u64 & ~LOG_ALL
    all_of(
        second.some(F.SET_FEATURES),
        lambda each: each.u64 & ~LOG_ALL == before,
        f"{before:#x}, as the guest has negotiated",
    )


@area.case(
    1738,
    "After a reconnection no ring beyond the queues of the next back-end is started",
    spec="Multiple queue support",
    severity=Severity.SHOULD,
    needs=("MQ",),
)
def fewer_queues(fe: FrontEnd) -> None:
    _, second = _both(fe, GONE._replace(name="the next back-end has one queue", second_queues=1))
    # The control queue of a NIC follows its pairs, and is not counted by GET_QUEUE_NUM.
    limit = fe.device_class.ring_limit(1)
    kicks = [each for each in second.of(F.SET_VRING_KICK) if (each.ring or 0) >= limit]
    check(not kicks, f"rings below {limit} only", f"{kicks[:1]} of ring {kicks and kicks[0].ring}")


def _leave_waiting(session: ScriptedSession) -> None:
    """The back-end ends when requests wait in all rings that were kicked, and has taken none.

    The driver has had time to kick for them: a kick that was not read would reach the next
    back-end.
    """
    rings = session.recording.kicked()
    session.pump(lambda: rings <= session.waiting().keys(), session.wire.timeout)
    session.pump(lambda: False, WHILE)
    _leave(session)


IDLE = GONE._replace(
    name="the back-end ends before it takes a request", idle=True, asks=_leave_waiting
)


@area.case(
    1739,
    "After the end of a back-end that took no request a ring begins where it began before",
    spec="VHOST_USER_SET_VRING_BASE",
)
def nothing_taken(fe: FrontEnd) -> None:
    first, second = _both(fe, IDLE)
    began = {each.ring: each.base for each in first.ring_starts}
    again = [each for each in second.ring_starts if each.ring in began]
    if not again:
        unsupported("no ring is started again")
    for each in again:
        check(
            each.base == began[each.ring],
            f"base {began[each.ring]} of ring {each.ring}, as before",
            f"base {each.base}",
        )


@area.case(
    1740,
    "After a reconnection a base is a free-running index, not a slot of its ring",
    spec="A vring descriptor index for split virtqueues",
)
def free_running(fe: FrontEnd) -> None:
    _, second = _both(fe, LATER)
    sizes = {each.state.ring: each.state.num for each in second.of(F.SET_VRING_NUM)}
    busy = [each for each in second.ring_starts if each.used >= sizes.get(each.ring, 1 << 16)]
    if not busy:
        unsupported("no ring has completed more requests than it has descriptors")
    for each in busy:
        check(
            (each.base - each.used) & 0xFFFF <= (each.available - each.used) & 0xFFFF,
            f"a base from {each.used} to {each.available}, the indices of ring {each.ring}",
            f"base {each.base}",
        )


@area.case(
    1741,
    "After a reconnection a ring with requests that no back-end has taken is kicked",
    spec="Ring states: a front-end should inject a kick after SET_VRING_KICK",
    severity=Severity.SHOULD,
)
def kicked_again(fe: FrontEnd) -> None:
    _, second = _both(fe, IDLE)
    waiting = {each.ring for each in second.ring_starts if each.base != each.available}
    if not waiting:
        unsupported("no ring has a request that waits")
    kicked = second.kicked()
    check(waiting <= kicked, f"kicks of rings {sorted(waiting)}", f"of {sorted(kicked) or 'none'}")


@area.case(
    1743,
    "A front-end that reconnects adds its memory regions again",
    spec="VHOST_USER_ADD_MEM_REG",
)
def regions_again(fe: FrontEnd) -> None:
    slots = int(P.CONFIGURE_MEM_SLOTS)
    first, second = _both(
        fe,
        GONE._replace(
            name="the back-end is replaced, with memory slots",
            protocol_offering=slots,
        ),
    )
    if not first.messages[-1].protocol & slots:
        unsupported("the front-end does not acknowledge CONFIGURE_MEM_SLOTS")
    had = {(one.gpa, one.size) for one in first.table_at(len(first.messages))}
    kick = second.some(F.SET_VRING_KICK)[0]
    has = {(one.gpa, one.size) for one in second.table_at(kick.at)}
    check(had <= has, f"regions {sorted(had)} before {kick}", f"{sorted(has) or 'none'}")


@area.case(
    1733,
    "Whether the guest continues after a reconnection",
    spec="a back-end serves recorded requests by itself",
)
def goes_on(fe: FrontEnd) -> None:
    _, second = _both(fe)
    if START in second.undone:
        observed(f"rings are not kicked again: {second.undone[START]}")
    observed("it makes requests" if second.chains else "its rings run, but it makes no requests")
