"""VU-F-05xx: descriptors of notifications, and when a driver kicks and is called."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vhost_user.payloads import VRING_NO_FD
from vhost_user_conformance.front_end.acts import CONT, START
from vhost_user_conformance.front_end.descriptors import EVENTFD, PIPE
from vhost_user_conformance.front_end.recording import RING_FDS, F
from vhost_user_conformance.front_end.request_scripts import ENOUGH, FOR_A_WHILE, ONE_AT_A_TIME
from vhost_user_conformance.front_end.script import Script
from vhost_user_conformance.front_end.tester import all_of
from vhost_user_conformance.model.case import FRONT_END, Area
from vhost_user_conformance.model.verdict import (
    check,
    unsupported,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vhost_user_conformance.front_end.recording import Received, Recording
    from vhost_user_conformance.front_end.script import ScriptedSession
    from vhost_user_conformance.front_end.tester import FrontEnd


from typing import TYPE_CHECKING

from vhost_user.features import VIRTIO_RING_F_EVENT_IDX
from vhost_user_conformance.front_end.acts import ASKED

if TYPE_CHECKING:
    from vhost_user_conformance.front_end.recording import Recording
    from vhost_user_conformance.front_end.script import ScriptedSession
    from vhost_user_conformance.front_end.tester import FrontEnd

area = Area("notifications", FRONT_END, "VHOST_USER_SET_VRING_KICK")

EVENT_IDX = 1 << VIRTIO_RING_F_EVENT_IDX


@area.each(501, RING_FDS, "{0.name}'s descriptor is an eventfd, or a pipe")
def notifier_kind(fe: FrontEnd, number: F) -> None:
    all_of(
        fe.plain().some(number),
        lambda each: all(fd.kind in (EVENTFD, PIPE) for fd in each.fds),
        "an eventfd or a pipe",
    )


@area.each(504, RING_FDS, "Bit 8 of {0.name} says whether there is a descriptor")
def no_descriptor_bit(fe: FrontEnd, number: F) -> None:
    all_of(
        fe.plain().some(number),
        lambda each: bool(each.u64 & VRING_NO_FD) is not bool(each.fds),
        "bit 8 set without a descriptor, and clear with one",
    )


@area.each(507, RING_FDS, "Bits 9 to 63 of {0.name} are 0")
def upper_bits(fe: FrontEnd, number: F) -> None:
    all_of(fe.plain().some(number), lambda each: not each.u64 >> 9, "a number below 0x200")


@area.case(510, "Each ring has a kick eventfd of its own")
def own_kick(fe: FrontEnd) -> None:
    recording = fe.plain()
    recording.first(F.SET_VRING_KICK)
    for each, held in _notifiers(recording):
        same = [
            ring
            for (number, ring), identity in held.items()
            if number == each.id == F.SET_VRING_KICK and identity == held[number, each.ring]
        ]
        check(len(same) <= 1, "another eventfd for another ring", f"{each}: rings {same}")


def _notifiers(
    recording: Recording,
) -> Iterator[tuple[Received, dict[tuple[int, int | None], str]]]:
    """Each message that gives a ring a notifier, and all that rings have then.

    The kernel gives the number of an eventfd that is gone to another one, so that only those which
    rings have at the same time can be told apart.
    """
    held: dict[tuple[int, int | None], str] = {}
    for each in recording.messages:
        if each.id == F.GET_VRING_BASE:
            held.pop((F.SET_VRING_KICK, each.ring), None)
            held.pop((F.SET_VRING_CALL, each.ring), None)
        if each.id in (F.SET_VRING_KICK, F.SET_VRING_CALL):
            held.pop((each.id, each.ring), None)
            if each.fds:
                held[each.id, each.ring] = each.fds[0].identity
                yield each, held


@area.case(513, "A ring's kick and its call are two eventfds")
def kick_is_no_call(fe: FrontEnd) -> None:
    recording = fe.plain()
    recording.first(F.SET_VRING_KICK)
    for each, held in _notifiers(recording):
        kick, call = (held.get((one, each.ring)) for one in (F.SET_VRING_KICK, F.SET_VRING_CALL))
        check(kick != call, "an eventfd for the kick and one for the call", f"{each}: {kick}")


@area.case(511, "A ring that has requests is kicked")
def kicked(fe: FrontEnd) -> None:
    recording = fe.plain()
    recording.started()
    taken = {chain.ring for chain in recording.chains}
    if not taken:
        unsupported("no request came that the suite looks at")
    check(taken <= recording.kicked(), f"kicks of rings {taken}", f"of {recording.kicked()}")


@area.case(512, "Requests that were available at the stop are kicked for at the start")
def kick_at_start(fe: FrontEnd) -> None:
    recording = fe.session(Script("nothing is served", ("start", "stop", "cont"), idle=True))
    recording.did(CONT)
    waiting = recording.kicked(START)
    kicked = recording.kicked(CONT)
    check(waiting <= kicked, f"kicks of rings {waiting}", f"of {kicked or 'none'}")


def _each_is_kicked_for(recording: Recording) -> None:
    recording.did(ASKED)
    if not recording.chains and not recording.unkicked:
        unsupported("no request came that the suite looks at")
    late = sorted(recording.unkicked)
    seen = f"a request lies in ring{'s' * (len(late) > 1)} {', '.join(map(str, late))} without one"
    check(not late, "a kick for each request that the back-end wants to be kicked for", seen)


@area.case(514, "The request at avail_event is kicked for", spec="virtio 1.3, 2.7.10.1 (EVENT_IDX)")
def kick_at_event(fe: FrontEnd) -> None:
    recording = fe.session(ONE_AT_A_TIME)
    if not (recording.messages and (recording.messages[-1].features or 0) & EVENT_IDX):
        unsupported("the front-end does not acknowledge EVENT_IDX")
    _each_is_kicked_for(recording)


@area.case(515, "Without EVENT_IDX each request is kicked for", spec="virtio 1.3, 2.7.10.1")
def kick_each(fe: FrontEnd) -> None:
    name = "requests are completed one at a time, without EVENT_IDX"
    _each_is_kicked_for(fe.session(ONE_AT_A_TIME._replace(name=name, without=EVENT_IDX)))


def _work_as_much(session: ScriptedSession) -> None:
    session.pump(lambda: len(session.recording.chains) >= ENOUGH, session.wire.timeout)


@area.case(
    516, "A driver that is called only where it asks for it goes on", spec="virtio 1.3, 2.7.7.1"
)
def called_as_asked(fe: FrontEnd) -> None:
    _goes_on(fe, "calls only where the driver asks for them", 0)


@area.case(
    517, "So does one without EVENT_IDX, by its flag NO_INTERRUPT", spec="virtio 1.3, 2.7.7.1"
)
def called_by_flag(fe: FrontEnd) -> None:
    _goes_on(fe, "calls only where the driver asks for them, without EVENT_IDX", EVENT_IDX)


def _goes_on(fe: FrontEnd, name: str, without: int) -> None:
    """One that never asks again takes nothing more from its ring, and runs out of room there."""
    fe.plain().started()
    usual = fe.session(FOR_A_WHILE)
    usual.did(ASKED)
    script = Script(name, (START, ASKED), without=without, calls_as_asked=True, asks=_work_as_much)
    recording = fe.session(script)
    recording.did(ASKED)
    # One that is busy has made many more by the time that they are counted.
    wanted, came = min(len(usual.chains), ENOUGH), len(recording.chains)
    if not wanted:
        unsupported("no request came that the suite looks at")
    check(2 * came >= wanted, f"about {wanted} requests, as when it is called each time", f"{came}")
