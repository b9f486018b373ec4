"""Rings whose writes are logged, and the pages that a log marks."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from vhost_user_conformance.back_end.connection import LOG_ALL, BackEnd, F, u64
from vhost_user_conformance.model.verdict import check, unsupported

if TYPE_CHECKING:
    from collections.abc import Callable

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


def check_logged(be: BackEnd, log: DirtyLog, wanted: set[int]) -> None:
    """Check that these pages are logged. Raises `Failed` if one is not.

    A device may log what it has written after the driver can see the completion.
    """
    dirty = _pages_until(be, log, wanted.issubset)
    check(wanted <= dirty, f"pages {sorted(wanted)} in the log", f"pages {sorted(dirty)}")


def check_used_logged(be: BackEnd, log: DirtyLog, ring: TestRing) -> set[int]:
    """Check that a page of the used ring is logged, as `check_logged`; all logged pages."""
    wanted = used_pages(ring)
    dirty = _pages_until(be, log, wanted.intersection)
    check(dirty & wanted, f"a page of {sorted(wanted)} in the log", f"pages {sorted(dirty)}")
    return dirty


def check_bit(be: BackEnd, fd: int, offset: int, page: int) -> None:
    """Check a page's bit in a log at this offset in its file, and that nothing is before it."""
    limit = be.wire.limit()
    while not (byte := os.pread(fd, 1, offset + page // 8)[0]) >> page % 8 & 1 and not limit.over:
        be.barrier()
    check(not any(os.pread(fd, offset, 0)), "nothing before the log's offset", "something is there")
    check(byte >> page % 8 & 1, f"page {page} in the log", f"its byte is {byte:#x}")


def _pages_until(be: BackEnd, log: DirtyLog, enough: Callable[[set[int]], object]) -> set[int]:
    """The pages whose bits are set, as soon as they are enough, or after the timeout."""
    limit = be.wire.limit()
    dirty = pages_of(log)
    while not enough(dirty) and not limit.over:
        be.barrier()
        dirty |= pages_of(log)
    return dirty


def used_pages(ring: TestRing) -> set[int]:
    """The pages of the used ring."""
    return set(range(ring.used >> 12, (ring.used + 4 + 8 * ring.size - 1 >> 12) + 1))
