"""VU-B-00xx and 99xx: the first and the last cases of a run, which a working back-end passes.

Where the class of device is not known no request can be made: 0002 and 9902 need none, and are the
first and the last case then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vhost_user_conformance.model.case import BACK_END, SANITY, Area
from vhost_user_conformance.model.verdict import check

if TYPE_CHECKING:
    from vhost_user_conformance.back_end.connection import BackEnd

area = Area(SANITY, BACK_END, "Ring states")
#: A base that no back-end returns by accident.
_BASE = 0x1234


def _serves(be: BackEnd) -> None:
    """Without a ring that is served many cases have nothing to judge."""
    ring = be.working_ring()
    for _ in range(3):
        be.serve(ring)


def _keeps_a_base(be: BackEnd) -> None:
    """A back-end that does nothing does not know the base."""
    be.negotiate()
    ring = be.ring(be.memory(), start=_BASE)
    be.start(ring)
    ring.kick()
    be.barrier()
    base = be.stop(ring)
    check(base == _BASE, f"base {_BASE:#x}", f"base {base:#x}")


@area.case(1, "First case: the back-end serves a ring", works=True)
def at_the_beginning(be: BackEnd) -> None:
    _serves(be)


@area.case(2, "First case without a class of device: a ring stops at the base it was started at")
def begins_with_a_base(be: BackEnd) -> None:
    _keeps_a_base(be)


@area.case(9901, "Last case: the back-end still serves a ring", works=True)
def at_the_end(be: BackEnd) -> None:
    _serves(be)


@area.case(9902, "Last case without a class of device: a ring stops at the base it was started at")
def ends_with_a_base(be: BackEnd) -> None:
    _keeps_a_base(be)
