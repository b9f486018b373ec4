"""VU-F-20xx: slow back-ends, and whether requests are pipelined."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vhost_user_conformance.front_end.acts import START
from vhost_user_conformance.front_end.script import Script
from vhost_user_conformance.model.case import FRONT_END, Area
from vhost_user_conformance.model.verdict import check, observed

if TYPE_CHECKING:
    from vhost_user_conformance.front_end.tester import FrontEnd

area = Area("timing", FRONT_END, "a stream socket and a slow back-end")


@area.each(2001, (0.01, 0.2), "The front-end waits for a back-end that takes {} s for each reply")
def slow(fe: FrontEnd, delay: float) -> None:
    fe.plain().started()
    recording = fe.session(Script(f"replies after {delay} s", delay=delay))
    check(START in recording.acts, "a ring to be started", f"{recording.undone}")


@area.case(
    2003, "Whether messages are sent before a reply has come", spec="nothing demands lock-step"
)
def pipelining(fe: FrontEnd) -> None:
    ahead = [each for each in fe.plain().messages if each.followed]
    observed(f"yes, after {ahead[0]}" if ahead else "no: it waits for each reply")
