"""VU-F-05xx: descriptors of notifications, and the times of kicks and calls."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vhost_user.features import VIRTIO_RING_F_EVENT_IDX
from vhost_user.payloads import VRING_NO_FD
from vhost_user_conformance.front_end.acts import ASKED, CONT, START, STOP
from vhost_user_conformance.front_end.descriptors import EVENTFD, PIPE
from vhost_user_conformance.front_end.recording import RING_FDS, STOPS, F
from vhost_user_conformance.front_end.request_scripts import ENOUGH, FOR_A_WHILE, ONE_AT_A_TIME
from vhost_user_conformance.front_end.script import MIGRATED_UNSERVED, Script
from vhost_user_conformance.front_end.tester import all_of
from vhost_user_conformance.model.case import FRONT_END, Area
from vhost_user_conformance.model.verdict import (
    Severity,
    check,
    unsupported,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vhost_user_conformance.front_end.recording import Received, Recording
    from vhost_user_conformance.front_end.script import ScriptedSession
    from vhost_user_conformance.front_end.tester import FrontEnd

area = Area("notifications", FRONT_END, "VHOST_USER_SET_VRING_KICK")

EVENT_IDX = 1 << VIRTIO_RING_F_EVENT_IDX


@area.each(501, RING_FDS, "{0.name}'s descriptor is an eventfd or a pipe")
def notifier_kind(fe: FrontEnd, number: F) -> None:
    all_of(
        fe.plain().some(number),
        lambda each: all(fd.kind in (EVENTFD, PIPE) for fd in each.fds),
        "an eventfd or a pipe",
    )


@area.each(504, RING_FDS, "Bit 8 of {0.name} is set if and only if there is no descriptor")
def no_descriptor_bit(fe: FrontEnd, number: F) -> None:
    all_of(
        fe.plain().some(number),
        lambda each: bool(each.u64 & VRING_NO_FD) is not bool(each.fds),
        "bit 8 set without a descriptor, and clear with one",
    )


@area.each(507, RING_FDS, "Bits 9 to 63 of {0.name} are 0")
def upper_bits(fe: FrontEnd, number: F) -> None:
    all_of(fe.plain().some(number), lambda each: not each.u64 >> 9, "a value below 0x200")


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
    """Each message that sets a notifier, and all notifiers that are set then.

    The kernel reuses the id of a closed eventfd, so only notifiers that are set at the same time
    can be distinguished.
    """
    held: dict[tuple[int, int | None], str] = {}
    for each in recording.messages:
        if each.id in STOPS:
            for number in RING_FDS:
                held.pop((number, each.ring), None)
        if each.id in RING_FDS:
            held.pop((each.id, each.ring), None)
            if each.fds:
                held[each.id, each.ring] = each.fds[0].identity
                yield each, held


@area.case(513, "A ring's kick and its call are two eventfds")
def kick_is_not_call(fe: FrontEnd) -> None:
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
        unsupported("no request came in a ring that the suite serves")
    check(taken <= recording.kicked(), f"kicks of rings {taken}", f"of {recording.kicked()}")


@area.case(512, "A ring that had available requests at a stop is kicked at the next start")
def kick_at_start(fe: FrontEnd) -> None:
    recording = fe.session(Script("nothing is served", ("start", "stop", "cont"), idle=True))
    recording.did(CONT)
    waiting = recording.kicked(START)
    kicked = recording.kicked(CONT)
    check(waiting <= kicked, f"kicks of rings {waiting}", f"of {kicked or 'none'}")


@area.case(518, "A ring that had available requests at a migration is kicked at the destination")
def kick_at_destination(fe: FrontEnd) -> None:
    there = fe.session(MIGRATED_UNSERVED).arrived()
    waiting = {start.ring for start in there.ring_starts if start.waiting}
    if not waiting:
        unsupported("no request was available when the rings started at the destination")
    kicked = there.kicked()
    check(waiting <= kicked, f"kicks of rings {waiting}", f"of {kicked or 'none'}")


def _each_is_kicked_for(recording: Recording) -> None:
    recording.did(ASKED)
    if not recording.chains and not recording.unkicked:
        unsupported("no request came in a ring that the suite serves")
    late = sorted(recording.unkicked)
    seen = f"none for a request in ring{'s' * (len(late) > 1)} {', '.join(map(str, late))}"
    check(not late, "a kick for each request for which the back-end requests one", seen)


@area.case(
    514,
    "The request at avail_event is followed by a kick",
    spec="virtio 1.3, 2.7.10.1 (EVENT_IDX)",
)
def kick_at_event(fe: FrontEnd) -> None:
    recording = fe.session(ONE_AT_A_TIME)
    if not (recording.messages and (recording.messages[-1].features or 0) & EVENT_IDX):
        unsupported("the front-end does not acknowledge EVENT_IDX")
    _each_is_kicked_for(recording)


@area.case(515, "Without EVENT_IDX each request is followed by a kick", spec="virtio 1.3, 2.7.10.1")
def kick_each(fe: FrontEnd) -> None:
    name = "requests are completed one at a time, without EVENT_IDX"
    _each_is_kicked_for(fe.session(ONE_AT_A_TIME._replace(name=name, without=EVENT_IDX)))


@area.each(
    520,
    (F.SET_VRING_CALL, F.SET_VRING_KICK),
    "SET_VRING_ERR has another descriptor than {0.name}",
    spec="VHOST_USER_SET_VRING_ERR",
    severity=Severity.SHOULD,
)
def own_error(fe: FrontEnd, number: F) -> None:
    recording = fe.plain()
    recording.some(F.SET_VRING_ERR)
    for each, held in _notifiers(recording):
        error, other = (held.get((one, each.ring)) for one in (F.SET_VRING_ERR, number))
        check(error is None or error != other, "another eventfd", f"{each}: {error} is both")


def _await_requests(session: ScriptedSession) -> None:
    session.pump(lambda: len(session.recording.chains) >= ENOUGH, session.wire.timeout)


def _serve(session: ScriptedSession) -> None:
    session.start_serving()
    _await_requests(session)


@area.case(519, "A ring that continues has its call: its driver continues, too", spec="Ring states")
def called_after_cont(fe: FrontEnd) -> None:
    fe.plain().did(CONT)
    usual = fe.session(FOR_A_WHILE)
    usual.did(ASKED)
    script = Script(
        "nothing is served before the VM continues",
        (START, STOP, CONT, ASKED),
        idle=True,
        asks=_serve,
    )
    _check_as_many(usual, fe.session(script))


@area.case(516, "A driver that is called only on request continues", spec="virtio 1.3, 2.7.7.1")
def called_as_asked(fe: FrontEnd) -> None:
    _check_continues(fe, "calls only on request of the driver", 0)


@area.case(
    517,
    "A driver without EVENT_IDX that is called only without NO_INTERRUPT continues",
    spec="virtio 1.3, 2.7.7.1",
)
def called_by_flag(fe: FrontEnd) -> None:
    _check_continues(fe, "calls only on request of the driver, without EVENT_IDX", EVENT_IDX)


def _check_continues(fe: FrontEnd, name: str, without: int) -> None:
    """A driver that requests no further call takes nothing more, and its ring becomes full."""
    fe.plain().started()
    usual = fe.session(FOR_A_WHILE)
    usual.did(ASKED)
    script = Script(
        name, (START, ASKED), without=without, calls_as_asked=True, asks=_await_requests
    )
    _check_as_many(usual, fe.session(script))


def _check_as_many(usual: Recording, recording: Recording) -> None:
    recording.did(ASKED)
    # A busy driver may have made many more requests than ENOUGH.
    wanted, came = min(len(usual.chains), ENOUGH), len(recording.chains)
    if not wanted:
        unsupported("no request came in a ring that the suite serves")
    check(2 * came >= wanted, f"about {wanted} requests, as with a call for each", f"{came}")
