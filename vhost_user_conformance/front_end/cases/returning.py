"""VU-F-172x and 173x: a front-end that connects anew when its back-end has gone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vhost_user.features import F_RING_EVENT_IDX, F_RING_INDIRECT_DESC, VHOST_F_LOG_ALL
from vhost_user_conformance.front_end.acts import ASKED, START
from vhost_user_conformance.front_end.cases.errors import errors
from vhost_user_conformance.front_end.recording import F
from vhost_user_conformance.front_end.script import Script
from vhost_user_conformance.front_end.tester import all_of
from vhost_user_conformance.model.verdict import check, observed, unsupported

if TYPE_CHECKING:
    from vhost_user_conformance.front_end.recording import Recording
    from vhost_user_conformance.front_end.script import ScriptedSession
    from vhost_user_conformance.front_end.tester import FrontEnd

__all__ = ["errors"]

LOG_ALL = 1 << VHOST_F_LOG_ALL
#: Features that many drivers use, and that the next back-end may lack.
LESS = 1 << F_RING_EVENT_IDX | 1 << F_RING_INDIRECT_DESC
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


@errors.each(
    1720, SAID_ANEW, "A front-end that connects anew says {0.name} anew", spec="Communication"
)
def said_anew(fe: FrontEnd, number: F) -> None:
    first, second = _both(fe)
    about = {each.ring for each in first.some(number) if each.ring is not None}
    again = {each.ring for each in second.of(number) if each.ring is not None}
    rings = f" for rings {sorted(about)}" if about else ""
    seen = f"for rings {sorted(again)}" if again else "it did not come"
    check(second.of(number) and about <= again, f"{number.name}{rings}", seen)


@errors.case(1730, "Its guest has the same features as before", spec="virtio 1.3, 3.1")
def same_features(fe: FrontEnd) -> None:
    first, second = _both(fe)
    before, after = (each.some(F.SET_FEATURES)[-1] for each in (first, second))
    wanted = before.u64 & ~LOG_ALL
    check(after.u64 & ~LOG_ALL == wanted, f"{wanted:#x}", f"{after}: {after.u64:#x}")


@errors.case(
    1731, "It gives the in-flight region to the next back-end", spec="Inflight I/O tracking"
)
def region_given(fe: FrontEnd) -> None:
    first, second = _both(fe)
    before = first.some(F.SET_INFLIGHT_FD)[-1]
    kicks = second.some(F.SET_VRING_KICK)
    told = [each for each in second.of(F.SET_INFLIGHT_FD) if each.at < kicks[0].at]
    check(told, "SET_INFLIGHT_FD before SET_VRING_KICK", f"{kicks[0]} without it")
    files = [[fd.identity for fd in each.fds] for each in (before, told[-1])]
    same = files[0] == files[1] and before.payload == told[-1].payload
    check(same, f"the region of before, in the file {files[0]}", f"{told[-1]}: {files[1]}")


@errors.case(
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


@errors.case(
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


@errors.case(1733, "Whether its guest goes on", spec="what a back-end noted it serves by itself")
def goes_on(fe: FrontEnd) -> None:
    _, second = _both(fe)
    if START in second.undone:
        observed(f"rings are not kicked again: {second.undone[START]}")
    observed("it makes requests" if second.chains else "its rings run, and no request comes")
