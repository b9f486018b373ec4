"""VU-B-0821 and up: writes that are easily left out of the dirty log."""

from __future__ import annotations

import struct

from vhost_user.features import VIRTIO_RING_F_EVENT_IDX
from vhost_user.virtqueue import split_offsets
from vhost_user_conformance.back_end.cases.dirty_log import area
from vhost_user_conformance.back_end.connection import LOG_ALL, BackEnd
from vhost_user_conformance.back_end.dirty_log import (
    check_logged,
    check_used_logged,
    pages_of,
    ready,
    switched_on,
    used_pages,
)
from vhost_user_conformance.back_end.nic import frame_of, looped
from vhost_user_conformance.model.verdict import Severity, check, unsupported
from vhost_user_conformance.peer.device_work import (
    BLK_F_FLUSH,
    BLK_FLUSH,
    BLK_GET_ID,
    BLK_IN,
    NET_HEADER,
    SECTOR,
)
from vhost_user_conformance.peer.memory import MIB, PAGE, Memory, TestRing

#: Descriptors of a ring whose used ring spans more than two pages.
_LARGE = 1024
_ID_BYTES = 20


def _request(be: BackEnd, ring: TestRing, kind: int, *writable: tuple[int, int]) -> None:
    """A disk's request, with its header on a page of its own and these writable buffers."""
    memory = ring.memory
    header = memory.allocate(PAGE, align=PAGE)
    memory.write(header, struct.pack("<IIQ", kind, 0, 0))
    memory.write(writable[-1][0] + writable[-1][1] - 1, b"\xff")
    ring.driver.add([(header, 16)], list(writable))
    ring.driver.publish()
    ring.kick()
    be.await_used(ring, ring.avail_index)
    ring.driver.pop()


def _own_page(memory: Memory) -> int:
    """A page that holds nothing else."""
    page = memory.allocate(PAGE, align=PAGE)
    memory.allocate(1, align=PAGE)
    return page


@area.case(821, "A buffer with a single byte on a page is logged there", device="blk")
def last_byte(be: BackEnd) -> None:
    ring, log = ready(be)
    memory = ring.memory
    where = memory.allocate(2 * PAGE, align=PAGE) + PAGE - SECTOR + 1
    status = _own_page(memory)
    _request(be, ring, BLK_IN, (where, SECTOR), (status, 1))
    check_logged(be, log, {where + SECTOR - 1 >> 12})


@area.case(822, "A used element that spans two pages is logged on both", works=True)
def element_across(be: BackEnd) -> None:
    # The ring begins on a page boundary, and is used from the element that ends on the next page.
    offset = split_offsets(_LARGE).used % PAGE + 4
    slot = (PAGE - 4 - offset) // 8
    ring, log = ready(be, size=_LARGE, start=slot - 1)
    ring.memory.allocate(PAGE, align=PAGE)
    be.serve(ring)
    at = ring.used + 4 + 8 * slot
    wanted = {at >> 12, at + 7 >> 12}
    check(len(wanted) == 2, "an element in two pages", f"one at {at:#x}")
    check_logged(be, log, wanted)


@area.case(
    823,
    "avail_event is logged, as a part of the used ring",
    works=True,
    severity=Severity.SHOULD,
)
def avail_event(be: BackEnd) -> None:
    be.negotiate_bits(VIRTIO_RING_F_EVENT_IDX)
    ring = be.ring(be.memory(), be.work.ring, _LARGE, event_idx=True)
    be.start(ring)
    be.serve(ring)
    log = switched_on(be, ring)
    ring.memory.allocate(PAGE, align=PAGE)
    at = ring.used + 4 + 8 * ring.size
    ring.memory.write(at, b"\xff\xff")
    be.serve(ring)
    be.serve(ring)
    be.barrier()
    if ring.memory.read(at, 2) == b"\xff\xff":
        unsupported("it does not write avail_event")
    check_logged(be, log, {at >> 12})


@area.case(824, "A received frame is logged, on all of its pages", device="net")
def received(be: BackEnd) -> None:
    nic = looped(be)
    log = switched_on(be, nic.rx, nic.tx)
    memory = nic.memory
    memory.allocate(PAGE - 256, align=PAGE)
    frame = frame_of(1514, 1)
    buffer = nic.offer(2048)
    nic.send(frame)
    nic.checked(buffer, frame)
    gpa, _ = buffer.pieces[0]
    check_logged(be, log, {gpa >> 12, gpa + NET_HEADER + len(frame) - 1 >> 12})


@area.case(825, "The status byte of a flush is logged", device="blk")
def flushed(be: BackEnd) -> None:
    ring, log = ready(be)
    if not be.features >> BLK_F_FLUSH & 1:
        unsupported("VIRTIO_BLK_F_FLUSH is not offered")
    status = _own_page(ring.memory)
    _request(be, ring, BLK_FLUSH, (status, 1))
    check_logged(be, log, {status >> 12})


@area.case(826, "The bytes that GET_ID writes are logged", device="blk")
def named(be: BackEnd) -> None:
    ring, log = ready(be)
    name, status = _own_page(ring.memory), _own_page(ring.memory)
    _request(be, ring, BLK_GET_ID, (name, _ID_BYTES), (status, 1))
    check_logged(be, log, {name >> 12, status >> 12})


@area.case(827, "A ring above 4 GiB is logged at its address", works=True)
def above_4g(be: BackEnd) -> None:
    be.negotiate()
    memory = Memory((4 * MIB, 4 * MIB), gap=1 << 32)
    be.own(memory.close)
    be.share(memory)
    ring = be.ring(memory, be.work.ring, region=1)
    be.start(ring)
    be.serve(ring)
    log = switched_on(be, ring)
    be.serve(ring)
    dirty = check_used_logged(be, log, ring)
    low = min(used_pages(ring)) & (1 << 20) - 1
    check(low not in dirty, "nothing at the same address below 4 GiB", f"page {low}")


@area.case(828, "The next connection does not write to the log of an earlier one", works=True)
def ends_with_it(be: BackEnd) -> None:
    ring, log = ready(be)
    be.serve(ring)
    other = be.reconnect().negotiate(features=be.driver_features | LOG_ALL)
    log.harvest()
    again = other.ring(other.memory(), other.work.ring)
    other.start(again, log=True)
    for _ in range(3):
        other.serve(again)
    other.barrier()
    dirty = pages_of(log)
    check(not dirty, "nothing in the log of a closed connection", f"pages {sorted(dirty)}")
