"""VU-B-0829 and up: what completes late or in parts, and how the log is set up and written."""

from __future__ import annotations

import os
import struct
import time
from typing import TYPE_CHECKING

from vhost_user.mapping import Mapping
from vhost_user.payloads import LogArea
from vhost_user_conformance.back_end import slow_requests
from vhost_user_conformance.back_end.cases.dirty_log import area
from vhost_user_conformance.back_end.connection import LOG_ALL, BackEnd, F, u64
from vhost_user_conformance.back_end.dirty_log import (
    check_bit,
    check_logged,
    check_used_logged,
    pages_of,
    ready,
    switched_on,
    used_pages,
)
from vhost_user_conformance.back_end.nic import frame_of, looped
from vhost_user_conformance.model.verdict import Severity, check, observed, unsupported
from vhost_user_conformance.peer.device_work import BLK_FLUSH, BLK_IN, NET_HEADER, SECTOR
from vhost_user_conformance.peer.memory import PAGE, Memory
from vhost_user_conformance.peer.wire import Closed

if TYPE_CHECKING:
    from vhost_user.dirty_log import DirtyLog
    from vhost_user_conformance.peer.memory import TestRing

#: A sector that no disk has.
_BEYOND = 1 << 50
_UNKNOWN = 0x7777
#: Batches, and requests in each, while the suite writes other bits of the same byte.
_BATCHES, _BATCH = 60, 20


@area.each(
    829,
    {"a read beyond the disk": (BLK_IN, _BEYOND), "an unknown request": (_UNKNOWN, 0)}.items(),
    "The status byte of a request that fails is logged: {0[0]}",
    device="blk",
)
def failed_status(be: BackEnd, what: tuple[str, tuple[int, int]]) -> None:
    ring, log = ready(be)
    memory = ring.memory
    header, data = memory.allocate(16), memory.allocate(SECTOR)
    status = memory.allocate(PAGE, align=PAGE)
    memory.allocate(1, align=PAGE)
    memory.write(header, struct.pack("<IIQ", what[1][0], 0, what[1][1]))
    memory.write(status, b"\xff")
    ring.driver.add([(header, 16)], [(data, SECTOR), (status, 1)])
    ring.driver.publish()
    ring.kick()
    be.await_used(ring, ring.avail_index)
    check(memory.read(status, 1) not in (b"\0", b"\xff"), "an error", "another status")
    check_logged(be, log, {status >> 12})


@area.case(831, "No bit is lost that is set while the back-end sets others", works=True)
def atomic(be: BackEnd) -> None:
    ring, log = ready(be)
    # The device's other writes are to pages whose bits are in other bytes.
    ring.memory.allocate(1, align=8 * PAGE)
    shared = min(used_pages(ring))
    neighbour = (shared & ~7) + (shared + 1) % 8
    byte, bit, lost = neighbour >> 3, neighbour & 7, 0
    view = Mapping(log.fd, 0, log.size).view
    for _ in range(_BATCHES):
        for _ in range(_BATCH):
            be.work.post(ring.memory, ring)
        ring.kick()
        done = False
        deadline = time.monotonic() + be.timeout
        while not done and time.monotonic() < deadline:
            view[byte] = 0  # bits of the device that this loses are not looked for
            log.mark(neighbour << 12, 1)
            done = ring.used_index == ring.avail_index
            lost += not view[byte] >> bit & 1
        be.await_used(ring, ring.avail_index)
        while ring.driver.pop() is not None:
            pass
    check(not lost, "all bits that were set to be found", f"{lost} of them were overwritten")


@area.case(
    832,
    "The log flag may come before the log, as where QEMU starts a device during a migration",
    works=True,
    spec="QEMU vhost_dev_start",
)
def flag_first(be: BackEnd) -> None:
    be.read_features()
    if not be.features & LOG_ALL:
        unsupported("feature bit 26 (VHOST_F_LOG_ALL) is not offered")
    ring = be.working_ring()
    be.serve(ring)
    ring.memory.allocate(PAGE, align=PAGE)  # what the device writes shares no page with the ring
    be.send(F.SET_FEATURES, u64(be.driver_features | LOG_ALL))
    be.send(F.SET_VRING_ADDR, be.address(ring, log=True))
    log = be.log(ring.memory)
    be.barrier()
    log.harvest()
    be.serve(ring)
    check_used_logged(be, log, ring)


@area.case(
    833,
    "A request that was taken before the log was switched on is logged when it completes",
    device="blk",
)
def taken_before(be: BackEnd) -> None:
    ring = be.working_ring(size=slow_requests.SIZE)
    slow_requests.need_slow(be)
    be.serve(ring)
    memory = ring.memory
    for turn in slow_requests.attempts(be, ring):
        del turn
        late = [_flush(memory, ring) for _ in range(8)]
        ring.kick()
        log = switched_on(be, ring)
        # What the device has not written yet it writes while the log is in force.
        late = [page for page in late if memory.read(page, 1) == b"\xff"]
        be.await_used(ring, ring.avail_index)
        if late:
            check_logged(be, log, {page >> 12 for page in late})
            return
        be.send(F.SET_FEATURES, u64(be.driver_features))


def _flush(memory: Memory, ring: TestRing) -> int:
    """Make a flush available; its status byte, alone on its page."""
    header, status = memory.allocate(16), memory.allocate(PAGE, align=PAGE)
    memory.allocate(1, align=PAGE)
    memory.write(header, struct.pack("<IIQ", BLK_FLUSH, 0, 0))
    memory.write(status, b"\xff")
    ring.driver.add([(header, 16)], [(status, 1)])
    ring.driver.publish()
    return status


@area.case(834, "A frame that is received in several buffers is logged in all", device="net")
def received_in_parts(be: BackEnd) -> None:
    nic = looped(be)
    log = switched_on(be, nic.rx, nic.tx)
    memory = nic.memory
    frame, lengths = frame_of(1000, 3), (NET_HEADER, 300, 2048)
    pieces = [(memory.allocate(PAGE, align=PAGE), length) for length in lengths]
    memory.allocate(1, align=PAGE)
    nic.rx.driver.add([], pieces)
    nic.rx.driver.publish()
    nic.rx.kick()
    nic.send(frame)
    be.await_used(nic.rx, nic.rx.avail_index)
    check_logged(be, log, {gpa >> 12 for gpa, _ in pieces})


@area.case(835, "The last byte of a received frame is logged, alone on its page", device="net")
def received_to_the_end(be: BackEnd) -> None:
    nic = looped(be)
    log = switched_on(be, nic.rx, nic.tx)
    memory, frame = nic.memory, frame_of(500, 4)
    page = memory.allocate(2 * PAGE, align=PAGE)
    memory.allocate(1, align=PAGE)
    at = page + PAGE - NET_HEADER - len(frame) + 1
    nic.rx.driver.add([], [(at, 2048)])
    nic.rx.driver.publish()
    nic.rx.kick()
    nic.send(frame)
    be.await_used(nic.rx, nic.rx.avail_index)
    check_logged(be, log, {(page >> 12) + 1})


@area.each(
    836, (1, 2, 3), "Random bytes are logged on all of {} pages of their buffers", device="rng"
)
def random_bytes(be: BackEnd, pages: int) -> None:
    ring, log = ready(be)
    memory = ring.memory
    places = [memory.allocate(PAGE, align=PAGE) + PAGE - 16 for _ in range(pages)]
    memory.allocate(1, align=PAGE)
    ring.driver.add([], [(gpa, 16) for gpa in places])
    ring.driver.publish()
    ring.kick()
    be.await_used(ring, ring.avail_index)
    done = ring.driver.pop()
    written = 0 if done is None else done[1]
    wanted = {gpa >> 12 for number, gpa in enumerate(places) if 16 * number < written}
    check_logged(be, log, wanted)


@area.case(
    839,
    "A log may begin anywhere in its file",
    spec="VHOST_USER_SET_LOG_BASE",
    works=True,
    severity=Severity.SHOULD,
)
def at_an_odd_offset(be: BackEnd) -> None:
    ring, _ = ready(be)
    memory, offset = ring.memory, PAGE + 64
    size = -(-memory.end // (8 * PAGE))
    fd = os.memfd_create("conformance-log", os.MFD_CLOEXEC)
    be.own(lambda: os.close(fd))
    os.ftruncate(fd, offset + size)
    try:
        be.ask(F.SET_LOG_BASE, LogArea(size, offset).pack(), fds=(fd,))
        be.barrier()
    except Closed:
        observed("it refuses a log whose offset is not a multiple of a page")
    be.serve(ring)
    check_bit(be, fd, offset, ring.used >> 12)


@area.case(
    840, "A log that was replaced may be unmapped: later requests use the new one", works=True
)
def replaced_twice(be: BackEnd) -> None:
    ring, log = ready(be)
    for _ in range(3):
        before: DirtyLog = log
        log = be.log(ring.memory)
        be.barrier()
        before.harvest()
        be.serve(ring)
        check_used_logged(be, log, ring)
        check(not pages_of(before), "nothing in the log before", "something is")


@area.case(
    841, "A ring that starts while there is a log is logged from its first request", works=True
)
def from_the_start(be: BackEnd) -> None:
    ring, log = ready(be)
    base = be.stop(ring)
    ring.memory.allocate(PAGE, align=PAGE)
    log.harvest()
    be.start(ring, base=base, log=True)
    be.serve(ring)
    check_used_logged(be, log, ring)
