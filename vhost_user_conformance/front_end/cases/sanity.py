"""VU-F-00xx and 99xx: the first and the last case of a run, which a working front-end passes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vhost_user_conformance.front_end.acts import START
from vhost_user_conformance.front_end.script import Script
from vhost_user_conformance.model.case import FRONT_END, SANITY, Area
from vhost_user_conformance.model.verdict import check, unsupported

if TYPE_CHECKING:
    from vhost_user_conformance.front_end.recording import Recording
    from vhost_user_conformance.front_end.tester import FrontEnd

area = Area(SANITY, FRONT_END, "Ring states")
LAST = Script("the last session of a run")


def _check_works(recording: Recording) -> None:
    """Without a guest that starts a ring most cases have nothing to judge."""
    check(not recording.crashed, "a front-end that runs", f"it ended {recording.ended}")
    if START not in recording.acts:
        unsupported(recording.undone.get(START, "no ring was started"))


@area.case(1, "First case: the front-end starts a ring with a correct back-end")
def at_the_beginning(fe: FrontEnd) -> None:
    _check_works(fe.plain())


@area.case(9901, "Last case: the front-end still starts a ring with a correct back-end")
def at_the_end(fe: FrontEnd) -> None:
    _check_works(fe.session(LAST))
