"""VU-B-1806 and up: descriptors of rings."""

from __future__ import annotations

from vhost_user_conformance.back_end.cases.resources import area
from vhost_user_conformance.back_end.connection import BackEnd, F, u64
from vhost_user_conformance.back_end.resource_counts import no_more_descriptors


@area.case(1806, "Call descriptors that are replaced are closed", works=True)
def calls(be: BackEnd) -> None:
    ring = be.working_ring()
    no_more_descriptors(
        be, lambda: be.accepted(F.SET_VRING_CALL, u64(ring.index), fds=(ring.call_fd,))
    )
    be.serve(ring)


@area.case(1807, "Error descriptors that are replaced are closed", works=True)
def errors(be: BackEnd) -> None:
    ring = be.working_ring()
    fd = be.spare_fd()
    no_more_descriptors(be, lambda: be.accepted(F.SET_VRING_ERR, u64(ring.index), fds=(fd,)))


@area.case(
    1808,
    "The descriptors of a ring are closed when it stops, or when it is set up again",
    works=True,
)
def restarts(be: BackEnd) -> None:
    ring = be.working_ring()

    def restart() -> None:
        be.serve(ring)
        be.start(ring, base=be.stop(ring))

    no_more_descriptors(be, restart)


@area.case(1809, "Kick descriptors of a ring that was never started are closed", works=True)
def kicks(be: BackEnd) -> None:
    be.negotiate()
    ring = be.ring(be.memory(), be.work.ring)
    be.set_up(ring)
    be.barrier()

    def again() -> None:
        be.stop(ring)
        be.set_up(ring)
        be.barrier()

    no_more_descriptors(be, again)


@area.case(1827, "Kick descriptors that are replaced while a ring runs are closed", works=True)
def running_kicks(be: BackEnd) -> None:
    ring = be.working_ring()
    no_more_descriptors(
        be, lambda: be.accepted(F.SET_VRING_KICK, u64(ring.index), fds=(ring.kick_fd,))
    )
    be.serve(ring)
