"""Sessions in which the guest makes requests: one at a time, or for a while."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from vhost_user_conformance.front_end.acts import ASKED, START
from vhost_user_conformance.front_end.script import Script

if TYPE_CHECKING:
    from vhost_user_conformance.front_end.script import ScriptedSession

#: Number of requests that are completed one at a time, and seconds in which the driver makes a new
#: one.
ROUNDS = 12
_ROUND = 0.1
#: Number of requests, or seconds, after which a driver is known to continue.
ENOUGH = 300
_WHILE = 0.7


def _one_at_a_time(session: ScriptedSession) -> None:
    """Complete one request after the other, and check that each new one is kicked for.

    Many requests at once hide a kick that is late by one request, as the next request brings it.
    While the suite holds all requests that the driver may have in flight there is no next one.
    """
    for _ in range(ROUNDS):
        if _unkicked(session) or not session.complete_one():
            return
    _unkicked(session)


def _unkicked(session: ScriptedSession) -> bool:
    """Wait until the driver has reacted. Returns whether a request was not kicked for."""
    begin, waits = time.monotonic(), dict[tuple[int, int], float]()

    def over() -> bool:
        now = time.monotonic()
        waiting = set(session.waiting().items())
        for gone in waits.keys() - waiting:
            del waits[gone]
        for each in waiting:
            waits.setdefault(each, now)
        late = {ring for (ring, _), since in waits.items() if now - since > session.wire.timeout}
        session.recording.unkicked |= late
        return bool(late) or (not waits and now - begin > _ROUND)

    session.pump(over, 2 * session.wire.timeout)
    return bool(session.recording.unkicked)


ONE_AT_A_TIME = Script(
    "requests are completed one at a time", (START, ASKED), holds=True, asks=_one_at_a_time
)


def _work_a_while(session: ScriptedSession) -> None:
    session.pump(lambda: len(session.recording.chains) >= ENOUGH, _WHILE)


FOR_A_WHILE = Script("requests for a while", (START, ASKED), asks=_work_a_while)
