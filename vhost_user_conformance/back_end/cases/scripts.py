"""VU-B-23xx: how known front-ends order their messages, replayed against a back-end.

The specification fixes no order. Each front-end here is in use, so a back-end has to accept all
of these (`vhost_user_conformance.back_end.front_ends`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vhost_user_conformance.back_end.front_ends import SCRIPTS
from vhost_user_conformance.back_end.replay import Replay
from vhost_user_conformance.back_end.script import NOTHING, F, P, Script, Step
from vhost_user_conformance.model.case import BACK_END, Area
from vhost_user_conformance.model.verdict import check, observed

if TYPE_CHECKING:
    from collections.abc import Callable

    from vhost_user_conformance.back_end.connection import BackEnd

area = Area("scripts", BACK_END, "no order is specified; what this front-end does")


def _each(
    first: int, wanted: Callable[[Script], object], rule: str, *needs: str
) -> Callable[[Callable[[BackEnd, Script], None]], None]:
    """Decorator: a case for each script; its number is that of the script."""

    def register(run: Callable[[BackEnd, Script], None]) -> None:
        for number, script in enumerate(SCRIPTS, first):
            if wanted(script):
                area.each(number, [script], rule, needs=needs, works=True)(run)

    return register


def _started(be: BackEnd, script: Script, also: P = NOTHING) -> Replay:
    replay = Replay(be, script, also)
    replay.setup()
    replay.start()
    return replay


def _check_base(replay: Replay, base: int, wanted: int) -> None:
    """The base of the ring that takes requests."""
    asked_of_a_reset_ring = P.STATUS in replay.be.acked and replay.script.stop[0] == Step(
        F.SET_STATUS
    )
    if asked_of_a_reset_ring and base == 0:
        observed(
            "status 0 reset the rings, and this front-end reads their bases after it: "
            f"the ring continues at 0, not at {wanted}"
        )
    check(base == wanted, f"base {wanted} after {wanted} requests", f"base {base}")


@_each(2301, bool, "A ring serves after the start as by {}")
def starts(be: BackEnd, script: Script) -> None:
    be.serve(_started(be, script).working)


@_each(
    2321,
    lambda script: script.stop,
    "A ring continues after a stop and a start on the same connection, as by {}",
)
def restarts(be: BackEnd, script: Script) -> None:
    replay = _started(be, script)
    for _ in range(3):
        be.serve(replay.working)
    _check_base(replay, replay.stop(), 3)
    replay.restart()
    be.serve(replay.working)


@_each(
    2341,
    lambda script: script.log,
    "Logging is switched on while rings run, and the rings are stopped, as {} migrates",
    "LOG_SHMFD",
)
def migrates(be: BackEnd, script: Script) -> None:
    replay = _started(be, script, P.LOG_SHMFD)
    be.serve(replay.working)
    replay.log()
    be.serve(replay.working)
    _check_base(replay, replay.stop(), 2)


@_each(
    2361,
    lambda script: script.unlog,
    "Rings continue after a cancelled migration, as by {}",
    "LOG_SHMFD",
)
def gives_up(be: BackEnd, script: Script) -> None:
    replay = _started(be, script, P.LOG_SHMFD)
    be.serve(replay.working)
    replay.log()
    be.serve(replay.working)
    replay.unlog()
    be.serve(replay.working)
    _check_base(replay, replay.stop(), 3)


@_each(
    2381,
    lambda script: script.stop and not script.renews,
    "The rings of a VM that was migrated here continue, started as by {}",
)
def arrives(be: BackEnd, script: Script) -> None:
    left = _started(be, script)
    for _ in range(3):
        be.serve(left.working)
    _check_base(left, left.stop(), 3)
    arrived = Replay(be.reconnect(), script, source=left)
    arrived.setup()
    arrived.start()
    arrived.be.serve(arrived.working)
