"""Rings whose writes are logged, and the pages that a log marks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vhost_user_conformance.back_end.connection import LOG_ALL, BackEnd, F, u64
from vhost_user_conformance.model.verdict import unsupported

if TYPE_CHECKING:
    from vhost_user.dirty_log import DirtyLog
    from vhost_user_conformance.peer.memory import TestRing


def ready(
    be: BackEnd, *, flag: bool = True, size: int = 64, start: int = 0
) -> tuple[TestRing, DirtyLog]:
    """A ring that runs and is logged."""
    ring = be.working_ring(size=size, start=start)
    be.serve(ring)
    return ring, switched_on(be, ring, flag=flag)


def switched_on(be: BackEnd, *rings: TestRing, flag: bool = True) -> DirtyLog:
    """Switch logging on as QEMU does: base, LOG_ALL, the rings' flag. The log is empty then.

    Raises:
        Unsupported: VHOST_F_LOG_ALL is not offered.
    """
    if not be.features & LOG_ALL:
        unsupported("feature bit 26 (VHOST_F_LOG_ALL) is not offered")
    log = be.log(rings[0].memory)
    be.send(F.SET_FEATURES, u64(be.driver_features | LOG_ALL))
    for ring in rings:
        be.send(F.SET_VRING_ADDR, be.address(ring, log=flag))
    be.barrier()
    log.harvest()
    return log


def pages_of(log: DirtyLog) -> set[int]:
    """The pages whose bits are set; the bits are cleared."""
    runs = log.harvest()
    return {page for gpa, size in runs for page in range(gpa >> 12, gpa + size >> 12)}


def used_pages(ring: TestRing) -> set[int]:
    """The pages of the used ring."""
    return set(range(ring.used >> 12, (ring.used + 4 + 8 * ring.size - 1 >> 12) + 1))
