"""VU-B-16xx: memory that arrives after the rings have started, page by page, on demand.

The suite is both the front-end and the source of the pages: a page that is not in the shared file
yet is missing, and is placed there when the back-end's userfaultfd reports a fault.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import struct
from pathlib import Path
from typing import TYPE_CHECKING

from vhost_user.payloads import MemTable, SingleRegion
from vhost_user_conformance.back_end.connection import BackEnd, F, u64
from vhost_user_conformance.model.case import BACK_END, Area
from vhost_user_conformance.model.verdict import (
    Failed,
    Severity,
    check,
    observed,
    unsupported,
)
from vhost_user_conformance.peer.device_work import BLK_F_RO, BLK_IN, BLK_OUT, SECTOR
from vhost_user_conformance.peer.memory import PAGE, USER_OFFSET, Memory
from vhost_user_conformance.peer.wire import Closed, Silent, WireError

if TYPE_CHECKING:
    from vhost_user_conformance.peer.memory import TestRing

area = Area("postcopy", BACK_END, "Migration", needs=("PAGEFAULT",))

#: linux/userfaultfd.h: struct uffd_msg, its event, and UFFDIO_WAKE.
_MESSAGE = struct.Struct("<B7xQQ8x")
_PAGEFAULT = 0x12
_WAKE = 0x8010AA02
_NR_USERFAULTFD = {"x86_64": 323, "aarch64": 282}


def _possible() -> bool:
    """Whether this host offers userfaultfd to programs."""
    number = _NR_USERFAULTFD.get(os.uname().machine)
    if number is None:
        return False
    fd = ctypes.CDLL(None, use_errno=True).syscall(number, os.O_CLOEXEC | os.O_NONBLOCK)
    if fd < 0:
        return False
    os.close(fd)
    return True


def _advise(be: BackEnd) -> int:
    """Send POSTCOPY_ADVISE; the userfaultfd."""
    reply = be.ask(F.POSTCOPY_ADVISE)
    if not reply.fds and not _possible():
        unsupported("is about userfaultfd, which this host does not offer")
    check(len(reply.fds) == 1, "one descriptor with the reply", f"{len(reply.fds)}")
    check(not reply.payload, "an empty payload", f"{len(reply.payload)} bytes")
    return reply.fds[0]


def _listen(be: BackEnd) -> None:
    reply = be.ask(F.POSTCOPY_LISTEN, need_reply=True)
    check(reply.u64 == 0, "POSTCOPY_LISTEN answered with 0", f"answered with {reply.u64}")


def _end(be: BackEnd) -> None:
    reply = be.ask(F.POSTCOPY_END, need_reply=True)
    check(len(reply.payload) == 8, "8 bytes in the reply", f"{len(reply.payload)} bytes")
    check(reply.u64 == 0, "POSTCOPY_END answered with 0", f"answered with {reply.u64}")


def _table(be: BackEnd, memory: Memory) -> MemTable:
    """SET_MEM_TABLE, its reply, and the acknowledgement by the front-end."""
    reply = be.ask(F.SET_MEM_TABLE, memory.table, fds=memory.fds)
    check(
        len(reply.payload) == len(memory.table),
        f"a table of {len(memory.table)} bytes",
        f"{len(reply.payload)} bytes",
    )
    be.send(F.SET_MEM_TABLE, u64(0))
    be.barrier()
    return MemTable.unpack(reply.payload)


class Pages:
    """The source of pages.

    Args:
        be: the back-end that faults.
        fd: its userfaultfd.
        memory: guest memory.
        bases: addresses of its regions in the back-end.
    """

    def __init__(self, be: BackEnd, fd: int, memory: Memory, bases: MemTable) -> None:
        self.asked: list[int] = []
        self._be = be
        self._fd = fd
        self._memory = memory
        self._bases = bases
        #: Contents of pages, by guest address.
        self.contents: dict[int, bytes] = {}

    def serve(self, ring: TestRing, index: int) -> None:
        """Place pages until the used index is reached. Raises `Failed` when it is not."""
        limit = self._be.wire.limit()
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        while ring.used_index != index & 0xFFFF:
            if limit.over:
                raise Failed(f"used index {index}", f"{ring.used_index}, pages {self.asked}")
            if poll.poll(5):
                self._bring()

    def _bring(self) -> None:
        event, _, address = _MESSAGE.unpack(os.read(self._fd, _MESSAGE.size))
        check(event == _PAGEFAULT, "a page fault", f"event {event:#x}")
        address -= address % PAGE
        gpa = self._guest(address)
        self.asked.append(gpa)
        self._memory.write(gpa, self.contents.get(gpa, bytes(PAGE)))
        fcntl.ioctl(self._fd, _WAKE, struct.pack("<QQ", address, PAGE))

    def _guest(self, address: int) -> int:
        for region in self._bases.regions:
            if 0 <= address - region.user_addr < region.size:
                return region.gpa + address - region.user_addr
        raise Failed("a fault in the memory of the reply", f"one at {address:#x}")


def _incoming(be: BackEnd) -> tuple[TestRing, Pages]:
    """A ring that runs while the pages of its buffers are missing."""
    be.negotiate("PAGEFAULT")
    fd = _advise(be)
    _listen(be)
    memory = be.memory(share=False)
    pages = Pages(be, fd, memory, _table(be, memory))
    ring = be.ring(memory, be.work.ring)
    be.start(ring)
    return ring, pages


@area.case(
    1601,
    "POSTCOPY_ADVISE is answered with one descriptor, and no payload",
    spec="VHOST_USER_POSTCOPY_ADVISE",
)
def advised(be: BackEnd) -> None:
    be.negotiate("PAGEFAULT")
    _advise(be)


@area.case(1602, "The descriptor of the reply is a userfaultfd", spec="VHOST_USER_POSTCOPY_ADVISE")
def descriptor(be: BackEnd) -> None:
    be.negotiate("PAGEFAULT")
    name = str(Path(f"/proc/self/fd/{_advise(be)}").readlink())
    check("userfaultfd" in name, "a userfaultfd", name)


@area.case(1603, "POSTCOPY_LISTEN is answered with 0", spec="VHOST_USER_POSTCOPY_LISTEN")
def listens(be: BackEnd) -> None:
    be.negotiate("PAGEFAULT")
    _advise(be)
    _listen(be)


@area.case(
    1604,
    "In postcopy SET_MEM_TABLE is answered with the back-end's own addresses",
    spec="VHOST_USER_SET_MEM_TABLE",
)
def bases(be: BackEnd) -> None:
    be.negotiate("PAGEFAULT")
    _advise(be)
    _listen(be)
    memory = be.memory(1 << 20, 2 << 20, share=False)
    table = _table(be, memory)
    received = [(region.gpa, region.size) for region in table.regions]
    wanted = [(region.gpa, region.size) for region in memory.regions]
    check(received == wanted, f"regions {wanted}", f"{received}")
    ranges = sorted((region.user_addr, region.size) for region in table.regions)
    check(all(at and not at % PAGE for at, _ in ranges), "pages' addresses", f"{ranges}")
    apart = ranges[0][0] + ranges[0][1] <= ranges[1][0]
    check(apart, "regions that do not overlap", f"{ranges}")
    ours = {region.gpa + USER_OFFSET for region in memory.regions}
    check(not ours & {at for at, _ in ranges}, "the back-end's own", "the front-end's")


@area.case(1605, "POSTCOPY_END is answered with 0", spec="VHOST_USER_POSTCOPY_END")
def ends(be: BackEnd) -> None:
    be.negotiate("PAGEFAULT")
    _advise(be)
    _listen(be)
    _table(be, be.memory(share=False))
    _end(be)


@area.case(1606, "A ring serves although pages are missing: they are requested", works=True)
def serves(be: BackEnd) -> None:
    ring, pages = _incoming(be)
    for turn in range(1, 4):
        be.work.post(ring.memory, ring)
        ring.kick()
        pages.serve(ring, turn)


@area.case(1607, "A missing page is requested at its address", device="blk")
def asked_for(be: BackEnd) -> None:
    ring, pages = _incoming(be)
    memory = ring.memory
    data = memory.allocate(PAGE, align=PAGE)
    memory.allocate(PAGE, align=PAGE)  # no request touches the page next to it
    _request(be, ring, BLK_IN, [], [(data, SECTOR)], pages)
    check(data in pages.asked, f"page {data:#x} asked for", f"{[hex(p) for p in pages.asked]}")
    wrong = [page for page in pages.asked if page > data]
    check(not wrong, "no page that is not needed", f"{[hex(page) for page in wrong]}")


@area.case(1608, "A page is used with the contents that the front-end placed", device="blk")
def contents(be: BackEnd) -> None:
    ring, pages = _incoming(be)
    if be.features >> BLK_F_RO & 1:
        unsupported("is about a disk that can be written, and this one is read-only")
    memory = ring.memory
    wanted = bytes(range(256)) * (PAGE // 256)
    source, target = memory.allocate(PAGE, align=PAGE), memory.allocate(PAGE, align=PAGE)
    pages.contents[source] = wanted
    _request(be, ring, BLK_OUT, [(source, PAGE)], [], pages)
    check(source in pages.asked, "the page asked for", "the file was read without it")
    _request(be, ring, BLK_IN, [], [(target, PAGE)], pages)
    check(memory.read(target, PAGE) == wanted, "the page that was placed", "another")


def _request(
    be: BackEnd,
    ring: TestRing,
    kind: int,
    readable: list[tuple[int, int]],
    writable: list[tuple[int, int]],
    pages: Pages,
) -> None:
    """A disk's request with its data at this address; the page of the header is present."""
    memory = ring.memory
    header, status = memory.allocate(16), memory.allocate(1)
    memory.write(header, struct.pack("<IIQ", kind, 0, 8))
    memory.write(status, b"\xff")
    turn = ring.used_index + 1
    ring.driver.add([(header, 16), *readable], [*writable, (status, 1)])
    ring.driver.publish()
    ring.kick()
    pages.serve(ring, turn)
    ring.driver.pop()
    seen = memory.read(status, 1)[0]
    check(seen == 0, f"status 0 from {be.device}", f"status {seen}")


@area.case(1609, "After POSTCOPY_END rings serve, and no page is requested", works=True)
def after_the_end(be: BackEnd) -> None:
    ring, pages = _incoming(be)
    be.work.post(ring.memory, ring)
    ring.kick()
    pages.serve(ring, 1)
    ring.driver.pop()
    _end(be)
    before = len(pages.asked)
    be.serve(ring)
    check(len(pages.asked) == before, "no more faults", f"{len(pages.asked) - before}")


@area.case(1610, "A ring can be stopped and started during postcopy", works=True)
def restarted(be: BackEnd) -> None:
    ring, pages = _incoming(be)
    be.work.post(ring.memory, ring)
    ring.kick()
    pages.serve(ring, 1)
    ring.driver.pop()
    base = be.stop(ring)
    check(base == 1, "base 1", f"base {base}")
    be.start(ring, base=base)
    be.work.post(ring.memory, ring)
    ring.kick()
    pages.serve(ring, 2)


@area.case(1611, "A device serves as before after POSTCOPY_ADVISE alone", works=True)
def only_advised(be: BackEnd) -> None:
    be.negotiate("PAGEFAULT")
    _advise(be)
    ring = be.ring(be.memory(), be.work.ring)
    be.start(ring)
    be.serve(ring)


@area.case(1612, "The next connection begins without postcopy", works=True)
def next_connection(be: BackEnd) -> None:
    be.negotiate("PAGEFAULT")
    _advise(be)
    _listen(be)
    other = be.reconnect()
    other.serve(other.working_ring())


@area.case(1613, "POSTCOPY_LISTEN without POSTCOPY_ADVISE", severity=Severity.MAY)
def listen_first(be: BackEnd) -> None:
    be.negotiate("PAGEFAULT")
    _observe(be, F.POSTCOPY_LISTEN)


@area.case(1614, "POSTCOPY_LISTEN when memory was already shared", severity=Severity.MAY)
def listen_late(be: BackEnd) -> None:
    be.negotiate("PAGEFAULT")
    _advise(be)
    be.memory()
    _observe(be, F.POSTCOPY_LISTEN)


@area.case(1615, "POSTCOPY_END without POSTCOPY_LISTEN", severity=Severity.MAY)
def end_first(be: BackEnd) -> None:
    be.negotiate("PAGEFAULT")
    _observe(be, F.POSTCOPY_END)


def _observe(be: BackEnd, number: F) -> None:
    """The handling of a message out of order is not specified."""
    try:
        code = be.ask(number, need_reply=True).u64
        be.barrier()
    except Closed:
        observed("it closed the connection")
    except Silent:
        observed("it does not answer")
    observed(f"it answered with {code}")


@area.case(
    1616,
    "In postcopy ADD_MEM_REG is answered with the back-end's own address",
    severity=Severity.MAY,
    needs=("CONFIGURE_MEM_SLOTS",),
)
def added_bases(be: BackEnd) -> None:
    # Older texts had it so. Newer ones exclude postcopy where memory slots were negotiated, and
    # do not specify what the back-end does.
    try:
        _added_bases(be)
    except (Failed, WireError) as error:
        observed(str(error))


def _added_bases(be: BackEnd) -> None:
    be.negotiate("PAGEFAULT", "CONFIGURE_MEM_SLOTS")
    _advise(be)
    _listen(be)
    memory = be.memory(1 << 20, 2 << 20, share=False)
    for region in memory.regions:
        asked = region.on_wire
        reply = be.ask(F.ADD_MEM_REG, SingleRegion(asked).pack(), fds=(region.fd,))
        check(len(reply.payload) == 40, "a region of 40 bytes", f"{len(reply.payload)} bytes")
        received = SingleRegion.unpack(reply.payload).region
        check(received[:2] == asked[:2], f"guest address and size {asked[:2]}", f"{received[:2]}")
        address = received.user_addr
        check(address and not address % PAGE, "a page's address", f"{address:#x}")
        check(address != asked.user_addr, "the back-end's own", "the front-end's")


@area.case(1617, "After POSTCOPY_END a memory table has no reply any more")
def not_answered_after(be: BackEnd) -> None:
    be.negotiate("PAGEFAULT")
    _advise(be)
    _listen(be)
    memory = be.memory(share=False)
    _table(be, memory)
    _end(be)
    be.send(F.SET_MEM_TABLE, memory.table, fds=memory.fds)
    be.check_responds("with no reply to a table")
