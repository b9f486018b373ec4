"""VU-F-05xx: when a front-end's driver kicks, and that it takes what it is called for."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from vhost_user.features import F_RING_EVENT_IDX
from vhost_user_conformance.front_end.acts import ASKED, START
from vhost_user_conformance.front_end.cases.rings import notifications
from vhost_user_conformance.front_end.script import Script
from vhost_user_conformance.model.verdict import check, unsupported

if TYPE_CHECKING:
    from vhost_user_conformance.front_end.recording import Recording
    from vhost_user_conformance.front_end.script import ScriptedSession
    from vhost_user_conformance.front_end.tester import FrontEnd

__all__ = ["FOR_A_WHILE", "ONE_AT_A_TIME", "notifications"]

EVENT_IDX = 1 << F_RING_EVENT_IDX
#: So many requests are completed one at a time; seconds in which the driver makes a new one.
ROUNDS = 12
_ROUND = 0.1
#: So many requests, or as many as come in these seconds, tell whether a driver goes on.
ENOUGH = 300
_WHILE = 0.7


def _one_at_a_time(session: ScriptedSession) -> None:
    """Complete one request after the other; whether each new one is kicked for.

    Many requests at once hide a kick that comes one request too late: the next one brings it. When
    all that a driver may have under way is held there is no next one.
    """
    for _ in range(ROUNDS):
        if _unkicked(session) or not session.complete_one():
            return
    _unkicked(session)


def _unkicked(session: ScriptedSession) -> bool:
    """Wait until the driver has done what it has to do; whether a request was not kicked for."""
    begin, waits = time.monotonic(), dict[tuple[int, int], float]()

    def over() -> bool:
        now = time.monotonic()
        waiting = set(session.waiting().items())
        for gone in waits.keys() - waiting:
            del waits[gone]
        for each in waiting:
            waits.setdefault(each, now)
        late = {ring for (ring, _), since in waits.items() if now - since > session.wire.patience}
        session.recording.unkicked |= late
        return bool(late) or (not waits and now - begin > _ROUND)

    session.pump(over, 2 * session.wire.patience)
    return bool(session.recording.unkicked)


def _each_is_kicked_for(recording: Recording) -> None:
    recording.did(ASKED)
    if not recording.chains and not recording.unkicked:
        unsupported("no request came that the suite looks at")
    late = sorted(recording.unkicked)
    seen = f"a request lies in ring{'s' * (len(late) > 1)} {', '.join(map(str, late))} without one"
    check(not late, "a kick for each request that the back-end wants to be kicked for", seen)


ONE_AT_A_TIME = Script(
    "requests are completed one at a time", (START, ASKED), holds=True, asks=_one_at_a_time
)


@notifications.case(
    514, "The request at avail_event is kicked for", spec="virtio 1.3, 2.7.10.1 (EVENT_IDX)"
)
def kick_at_event(fe: FrontEnd) -> None:
    recording = fe.session(ONE_AT_A_TIME)
    if not (recording.messages and (recording.messages[-1].features or 0) & EVENT_IDX):
        unsupported("the front-end does not acknowledge EVENT_IDX")
    _each_is_kicked_for(recording)


@notifications.case(
    515, "Without EVENT_IDX each request is kicked for", spec="virtio 1.3, 2.7.10.1"
)
def kick_each(fe: FrontEnd) -> None:
    name = "requests are completed one at a time, without EVENT_IDX"
    _each_is_kicked_for(fe.session(ONE_AT_A_TIME._replace(name=name, without=EVENT_IDX)))


def _work_a_while(session: ScriptedSession) -> None:
    session.pump(lambda: len(session.recording.chains) >= ENOUGH, _WHILE)


FOR_A_WHILE = Script("requests for a while", (START, ASKED), asks=_work_a_while)


def _work_as_much(session: ScriptedSession) -> None:
    session.pump(lambda: len(session.recording.chains) >= ENOUGH, session.wire.patience)


@notifications.case(
    516, "A driver that is called only where it asks for it goes on", spec="virtio 1.3, 2.7.7.1"
)
def called_as_asked(fe: FrontEnd) -> None:
    _goes_on(fe, "calls only where the driver asks for them", 0)


@notifications.case(
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
