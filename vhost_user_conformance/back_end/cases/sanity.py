"""VU-B-00xx and 99xx: the first and the last case of a run, which a working back-end passes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vhost_user_conformance.model.case import BACK_END, SANITY, Area

if TYPE_CHECKING:
    from vhost_user_conformance.back_end.connection import BackEnd

area = Area(SANITY, BACK_END, "Ring states")


def _serves(be: BackEnd) -> None:
    """Without a ring that is served many cases have nothing to judge."""
    ring = be.working_ring()
    for _ in range(3):
        be.serve(ring)


@area.case(1, "First case: the back-end serves a ring", works=True)
def at_the_beginning(be: BackEnd) -> None:
    _serves(be)


@area.case(9901, "Last case: the back-end still serves a ring", works=True)
def at_the_end(be: BackEnd) -> None:
    _serves(be)
