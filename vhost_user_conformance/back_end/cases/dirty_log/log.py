"""VU-B-08xx: the dirty log while a migration copies memory."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from vhost_user.dirty_log import DirtyLog
from vhost_user.features import VIRTIO_F_VERSION_1
from vhost_user.payloads import LogArea
from vhost_user_conformance.back_end.cases.dirty_log import area
from vhost_user_conformance.back_end.connection import LOG_ALL, PROTOCOL_BIT, BackEnd, F, u64
from vhost_user_conformance.back_end.dirty_log import (
    check_bit,
    check_logged,
    check_used_logged,
    pages_of,
    ready,
    used_pages,
)
from vhost_user_conformance.model.verdict import Severity, check, observed, unsupported
from vhost_user_conformance.peer.device_work import SECTOR
from vhost_user_conformance.peer.memory import PAGE
from vhost_user_conformance.peer.wire import Closed

if TYPE_CHECKING:
    from vhost_user_conformance.peer.memory import TestRing


@area.case(801, "SET_LOG_BASE with a descriptor has a reply", spec="VHOST_USER_SET_LOG_BASE")
def answered(be: BackEnd) -> None:
    be.negotiate()
    be.log(be.memory())


@area.case(802, "The used ring of a ring with the log flag is logged", works=True)
def used_ring(be: BackEnd) -> None:
    ring, log = ready(be)
    be.serve(ring)
    check_used_logged(be, log, ring)


def _read_sector(be: BackEnd, ring: TestRing, where: int, status: int) -> None:
    """Have a disk read its first sector to these guest addresses."""
    header = ring.memory.allocate(16)
    ring.memory.write(header, bytes(16))
    ring.driver.add([(header, 16)], [(where, SECTOR), (status, 1)])
    ring.driver.publish()
    ring.kick()
    be.await_used(ring, ring.avail_index)


@area.case(803, "Data that a disk writes into guest memory is logged", device="blk")
def data(be: BackEnd) -> None:
    ring, log = ready(be)
    memory = ring.memory
    where, status = memory.allocate(PAGE, align=PAGE), memory.allocate(1, align=PAGE)
    _read_sector(be, ring, where, status)
    check_logged(be, log, {where >> 12, status >> 12})


@area.case(804, "A buffer that spans two pages is logged on both", device="blk")
def two_pages(be: BackEnd) -> None:
    ring, log = ready(be)
    memory = ring.memory
    where = memory.allocate(2 * PAGE, align=PAGE) + PAGE - SECTOR // 2
    _read_sector(be, ring, where, memory.allocate(1))
    check_logged(be, log, {where >> 12, (where >> 12) + 1})


@area.case(805, "Memory that the device did not write is not logged", works=True)
def nothing_else(be: BackEnd) -> None:
    ring, log = ready(be)
    memory = ring.memory
    untouched = memory.allocate(16 * PAGE, align=PAGE)
    be.serve(ring)
    dirty = pages_of(log)
    wrong = dirty & set(range(untouched >> 12, (untouched >> 12) + 16))
    check(not wrong, "none of these pages in the log", f"pages {sorted(wrong)}")


@area.case(806, "Without LOG_ALL nothing is logged", works=True, severity=Severity.SHOULD)
def not_on(be: BackEnd) -> None:
    ring = be.working_ring()
    log = be.log(ring.memory)
    be.serve(ring)
    dirty = pages_of(log)
    check(not dirty, "an empty log", f"pages {sorted(dirty)}")


@area.case(
    807,
    "Whether the used ring of a ring without the log flag is logged",
    works=True,
    severity=Severity.MAY,
)
def no_flag(be: BackEnd) -> None:
    ring, log = ready(be, flag=False)
    # Other writes of the device must not share a page with the ring.
    ring.memory.allocate(PAGE, align=PAGE)
    be.serve(ring)
    if pages_of(log) & used_pages(ring):
        observed("it is logged, which copies a page more and is harmless")


@area.case(
    808, "After LOG_ALL was switched off nothing is logged", works=True, severity=Severity.SHOULD
)
def off_again(be: BackEnd) -> None:
    ring, log = ready(be)
    be.serve(ring)
    be.send(F.SET_FEATURES, u64(be.driver_features))
    be.send(F.SET_VRING_ADDR, be.address(ring))
    be.barrier()
    log.harvest()
    be.serve(ring)
    dirty = pages_of(log)
    check(not dirty, "an empty log", f"pages {sorted(dirty)}")


@area.case(809, "A log may be replaced by another while rings run", works=True)
def replaced(be: BackEnd) -> None:
    ring, old = ready(be)
    be.serve(ring)
    new = be.log(ring.memory)
    be.barrier()
    old.harvest()
    be.serve(ring)
    check_used_logged(be, new, ring)
    check(not pages_of(old), "nothing in the old log", "something is")


@area.case(810, "Logging continues over a stop and a start of the ring", works=True)
def over_a_restart(be: BackEnd) -> None:
    ring, log = ready(be)
    be.serve(ring)
    base = be.stop(ring)
    log.harvest()
    be.start(ring, base=base, log=True)
    be.serve(ring)
    check_used_logged(be, log, ring)


@area.case(811, "The used ring is logged at log_guest_addr, not at its own address", works=True)
def elsewhere(be: BackEnd) -> None:
    ring, log = ready(be)
    memory = ring.memory
    other = memory.allocate(PAGE, align=PAGE)
    address = bytearray(be.address(ring, log=True))
    address[32:40] = u64(other)
    be.send(F.SET_VRING_ADDR, bytes(address))
    be.barrier()
    log.harvest()
    be.serve(ring)
    check_logged(be, log, {other >> 12})


@area.case(812, "The back-end only sets bits: it clears none", works=True)
def only_adds(be: BackEnd) -> None:
    ring, log = ready(be)
    # The pages that share a byte of the log with the ring's page.
    first = min(used_pages(ring)) & ~7
    log.mark(first * PAGE, 8 * PAGE)
    for _ in range(2):
        be.serve(ring)
    lost = set(range(first, first + 8)) - pages_of(log)
    check(not lost, f"pages {first} to {first + 7} in the log still", f"not {sorted(lost)}")


@area.case(813, "SET_FEATURES with LOG_ALL is accepted while a ring runs", works=True)
def while_running(be: BackEnd) -> None:
    ring, _log = ready(be)
    for _ in range(5):
        be.serve(ring)


@area.case(
    814, "The front-end may close the log's descriptor once the message is answered", works=True
)
def closed_descriptor(be: BackEnd) -> None:
    be.serve(ready(be)[0])


@area.case(
    815, "SET_LOG_FD is accepted", severity=Severity.MAY, spec="VHOST_USER_SET_LOG_FD; Migration"
)
def log_fd(be: BackEnd) -> None:
    be.negotiate()
    be.send(F.SET_LOG_FD, fds=(be.spare_fd(),))
    try:
        be.barrier()
    except Closed:
        observed("it closed the connection: the message is optional")


@area.case(816, "A log that is smaller than memory is survived, or refused")
def small(be: BackEnd) -> None:
    be.negotiate()
    be.memory()
    log = DirtyLog.create(8)
    be.own(log.close)
    try:
        be.ask(F.SET_LOG_BASE, LogArea(log.size, 0).pack(), fds=(log.fd,))
        be.barrier()
    except Closed:
        return


@area.case(817, "Logging needs no other features than VERSION_1 and LOG_ALL", works=True)
def few_features(be: BackEnd) -> None:
    be.read_features()
    wanted = 1 << VIRTIO_F_VERSION_1 | PROTOCOL_BIT | LOG_ALL
    if be.features & wanted != wanted:
        unsupported("feature bit 26 (VHOST_F_LOG_ALL) is not offered")
    ring, log = ready(be)
    be.serve(ring)
    check_used_logged(be, log, ring)


def _large_ring(be: BackEnd) -> tuple[DirtyLog, int, int]:
    """A request in a used ring of more than two pages, which hold nothing else.

    Returns:
        The log, the page of the used index, and that of the element.
    """
    ring, log = ready(be, size=1024, start=600)
    ring.memory.allocate(PAGE, align=PAGE)
    index = ring.used_index
    be.serve(ring)
    return log, ring.used >> 12, ring.used + 4 + 8 * (index % ring.size) >> 12


@area.case(818, "The page of the used index is logged where it holds no used element", works=True)
def index_page(be: BackEnd) -> None:
    log, index, _ = _large_ring(be)
    check_logged(be, log, {index})


@area.case(819, "The page of a used element is logged where it does not hold the index", works=True)
def element_page(be: BackEnd) -> None:
    log, _, element = _large_ring(be)
    check_logged(be, log, {element})


@area.case(
    820, "A log begins at its offset in its file", spec="VHOST_USER_SET_LOG_BASE", works=True
)
def at_an_offset(be: BackEnd) -> None:
    ring, _ = ready(be)
    size = -(-ring.memory.end // (8 * PAGE))
    fd = os.memfd_create("conformance-log", os.MFD_CLOEXEC)
    be.own(lambda: os.close(fd))
    os.ftruncate(fd, PAGE + size)
    be.ask(F.SET_LOG_BASE, LogArea(size, PAGE).pack(), fds=(fd,))
    be.serve(ring)
    check_bit(be, fd, PAGE, ring.used >> 12)
