"""Devices whose guest memory comes page by page."""
# ruff: noqa: D102, D103 - the names say what they are about

from __future__ import annotations

import os
import signal
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from backends.control import ControlOptions
from tests.backends.rig import QEMU_ORDER, RamRegion, Rig
from tests.backends.served import KINDS, Kind, Served, program
from tests.timeouts import TIMEOUT
from tests.vhost_user.pages import Pages, await_fault, needs_userfaultfd, punch_holes
from vhost_user.codec import (
    NEED_REPLY,
    REPLY_FLAGS,
    VERSION,
    Decoder,
    Frame,
    encode,
    reply_forms,
)
from vhost_user.errors import BackendError, Disconnected, Refused
from vhost_user.features import SPEC
from vhost_user.frontend import FrontendConnection
from vhost_user.memory import PAGE_SIZE
from vhost_user.messages import FrontendRequest as F
from vhost_user.messages import Reply, Request, frontend_messages
from vhost_user.payloads import U64, MemoryRegion, MemTable, SingleRegion

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

pytestmark = needs_userfaultfd


class Incoming:
    """A front-end that brings pages to a back-end."""

    def __init__(self, rig: Rig, stack: ExitStack) -> None:
        self.rig = rig
        self._stack = stack
        self.bases: list[tuple[RamRegion, int]] = []
        self.fd = -1
        self.pages: Pages | None = None

    def ask(self, request: Request) -> Reply:
        reply = self.rig.call(request)
        assert reply is not None
        return reply

    def listen(self) -> None:
        """POSTCOPY_ADVISE and POSTCOPY_LISTEN."""
        (self.fd,) = self.ask(Request(F.POSTCOPY_ADVISE)).fds
        self._stack.callback(os.close, self.fd)
        assert self.ask(Request(F.POSTCOPY_LISTEN)).payload == U64(0)

    def tables(self) -> None:
        """The whole memory, and the go-ahead."""
        rams = (self.rig.low, self.rig.high)
        table = MemTable(tuple(ram.region for ram in rams))
        fds = tuple(ram.fd for ram in rams)
        placed = self.ask(Request(F.SET_MEM_TABLE, table, fds)).payload
        assert isinstance(placed, MemTable)
        self._place(rams, placed.regions)
        assert self.rig.call(Request(F.SET_MEM_TABLE, U64(0))) is None

    def slots(self) -> None:
        """The same region by region, and one go-ahead, as QEMU does."""
        for ram in (self.rig.low, self.rig.high):
            placed = self.ask(Request(F.ADD_MEM_REG, SingleRegion(ram.region), (ram.fd,))).payload
            assert isinstance(placed, SingleRegion)
            self._place([ram], [placed.region])
        assert self.rig.call(Request(F.ADD_MEM_REG, U64(0))) is None

    def _place(self, rams: Sequence[RamRegion], placed: Sequence[MemoryRegion]) -> None:
        for ram, region in zip(rams, placed, strict=True):
            assert region == ram.region._replace(user_addr=region.user_addr)
            assert region.user_addr % PAGE_SIZE == 0
            self.bases.append((ram, region.user_addr))

    def bring_pages(self) -> None:
        """From now on; each page is zero."""
        self.pages = Pages(self.fd, lambda address: self.put(address, bytes(PAGE_SIZE)))
        self._stack.callback(self.pages.close)

    def put(self, address: int, page: bytes) -> None:
        """Copy a page to where the back-end has it mapped."""
        for ram, base in self.bases:
            if 0 <= address - base < ram.region.size:
                os.pwrite(ram.fd, page, address - base + ram.region.mmap_offset)
                return
        raise AssertionError(f"a fault at {address:#x}, which is not guest memory")

    @property
    def asked(self) -> set[int]:
        """Guest addresses of the pages that were requested."""
        assert self.pages is not None
        return {
            ram.region.gpa + address - base
            for address in self.pages.asked
            for ram, base in self.bases
            if 0 <= address - base < ram.region.size
        }

    def start(self) -> None:
        """All rings; the first piece of work kicks them."""
        for ring in self.rig.rings:
            ring.set_up(QEMU_ORDER)

    def end(self) -> None:
        assert self.ask(Request(F.POSTCOPY_END)).payload == U64(0)


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]()


@pytest.fixture
def served(kind: Kind, tmp_path: Path) -> Iterator[Served]:
    made = Served(kind, tmp_path, ControlOptions())
    yield made
    made.close()


@pytest.fixture
def attach(kind: Kind, served: Served) -> Iterator[Callable[[], Incoming]]:
    """Connects a front-end that has negotiated postcopy."""
    with ExitStack() as stack:

        def made() -> Incoming:
            rig = Rig(served.connect(), kind.rings)
            stack.callback(rig.close)
            rig.set_features()
            return Incoming(rig, stack)

        yield made


@pytest.fixture
def incoming(attach: Callable[[], Incoming]) -> Incoming:
    """A front-end after POSTCOPY_LISTEN."""
    made = attach()
    made.listen()
    return made


def begin(kind: Kind, incoming: Incoming) -> None:
    """A piece of work for which the device is kicked while pages that it needs are missing."""
    rig = incoming.rig
    incoming.start()
    kind.prepare(rig)
    ring = rig.rings[kind.ring]
    kick = ring.kick

    def drop_and_kick() -> None:
        punch_holes(rig.high.fd)
        kick()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ring, "kick", drop_and_kick)
        kind.submit(rig, 0)


@pytest.mark.parametrize("how", ["tables", "slots"])
def test_serves_while_pages_are_missing(kind: Kind, incoming: Incoming, how: str) -> None:
    getattr(incoming, how)()
    incoming.bring_pages()
    begin(kind, incoming)
    written = kind.finish(incoming.rig, 0)
    assert {gpa - gpa % PAGE_SIZE for gpa in written} <= incoming.asked
    for number in range(1, 4):
        kind.work(incoming.rig, number)
    assert incoming.rig.rings[kind.ring].stop() == 4


def test_after_the_end_no_page_is_waited_for(kind: Kind, incoming: Incoming) -> None:
    rig = incoming.rig
    incoming.tables()
    incoming.bring_pages()
    begin(kind, incoming)
    kind.finish(rig, 0)
    incoming.end()
    before = incoming.asked
    kind.submit(rig, 1)
    kind.finish(rig, 1)
    punch_holes(rig.high.fd)
    kind.work(rig, 2)
    assert incoming.asked == before
    rig.set_mem_table()
    kind.work(rig, 3)


def test_memory_before_the_go_ahead_is_not_used(kind: Kind, incoming: Incoming) -> None:
    rig = incoming.rig
    table = MemTable((rig.low.region,))
    rig.call(Request(F.SET_MEM_TABLE, table, (rig.low.fd,)))
    incoming.start()
    kind.prepare(rig)
    kind.submit(rig, 0)
    assert rig.rings[kind.ring].idle()
    incoming.tables()
    incoming.bring_pages()
    rig.rings[kind.ring].wait()


def test_front_end_disconnects_while_a_page_is_waited_for(
    kind: Kind, incoming: Incoming, attach: Callable[[], Incoming]
) -> None:
    """A copy of its userfaultfd may stay open, in a child or a test."""
    incoming.tables()
    begin(kind, incoming)
    await_fault(incoming.fd)
    incoming.rig.connection.close()
    rig = attach().rig.start()
    kind.prepare(rig)
    kind.work(rig, 0)


def test_program_ends_while_a_page_is_waited_for(kind: Kind, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with ExitStack() as stack:
        process = stack.enter_context(program(kind.arguments(tmp_path), "--socket-path", path))
        rig = Rig(FrontendConnection.connect(path, name="s"), kind.rings)
        stack.callback(rig.close)
        rig.set_features()
        incoming = Incoming(rig, stack)
        incoming.listen()
        incoming.tables()
        begin(kind, incoming)
        await_fault(incoming.fd)
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT) == 0


def test_postcopy_that_is_only_advised(kind: Kind, attach: Callable[[], Incoming]) -> None:
    incoming = attach()
    for _ in range(2):
        os.close(incoming.ask(Request(F.POSTCOPY_ADVISE)).fds[0])
    incoming.rig.start()
    kind.prepare(incoming.rig)
    kind.work(incoming.rig, 0)


def test_a_table_that_cannot_be_mapped_is_refused(incoming: Incoming) -> None:
    low = incoming.rig.low
    wrong = MemTable((low.region._replace(size=low.region.size + PAGE_SIZE),))
    assert incoming.ask(Request(F.SET_MEM_TABLE, wrong, (low.fd,))).payload == U64(1)


def send_all(incoming: Incoming, requests: list[Request]) -> None:
    for request in requests:
        reply = incoming.rig.call(request)
        for fd in () if reply is None else reply.fds:
            os.close(fd)


LISTEN, END = Request(F.POSTCOPY_LISTEN), Request(F.POSTCOPY_END)
ADVISE, GO = Request(F.POSTCOPY_ADVISE), Request(F.SET_MEM_TABLE, U64(0))


@pytest.mark.parametrize(
    "requests",
    [[LISTEN], [END], [ADVISE, END], [ADVISE, LISTEN, LISTEN], [ADVISE, LISTEN, ADVISE], [GO]],
    ids=lambda requests: "-".join(request.id.name for request in requests),
)
def test_out_of_order_closes(
    kind: Kind, attach: Callable[[], Incoming], requests: list[Request]
) -> None:
    incoming = attach()
    with pytest.raises(Disconnected):
        send_all(incoming, [*requests, Request(F.GET_FEATURES)])
    rig = attach().rig.start()
    kind.prepare(rig)
    kind.work(rig, 0)


def test_listen_with_memory_closes(attach: Callable[[], Incoming]) -> None:
    incoming = attach()
    incoming.rig.set_mem_table()
    with pytest.raises(Disconnected):
        incoming.listen()


def test_an_invalid_go_ahead_is_refused(incoming: Incoming) -> None:
    with pytest.raises(Refused):
        incoming.rig.ack(F.SET_MEM_TABLE, U64(1))


def test_the_messages_of_a_postcopy_in_one_batch(
    kind: Kind, attach: Callable[[], Incoming]
) -> None:
    """Each is answered as the messages before it require, whatever comes after it."""
    incoming = attach()
    rams = (incoming.rig.low, incoming.rig.high)
    table = MemTable(tuple(ram.region for ram in rams))
    fds = tuple(ram.fd for ram in rams)
    requests = [
        (F.POSTCOPY_ADVISE, None, ()),
        (F.POSTCOPY_LISTEN, None, ()),
        (F.SET_MEM_TABLE, table, fds),
        (F.SET_MEM_TABLE, U64(0), ()),
        (F.POSTCOPY_END, None, ()),
        (F.SET_MEM_TABLE, table, fds),
    ]
    connection = incoming.rig.connection
    sock = socket.socket(fileno=os.dup(connection.fileno()))
    for number, payload, sent in requests:
        socket.send_fds(sock, [encode(number, VERSION | NEED_REPLY, payload)], sent)
    sock.settimeout(TIMEOUT)
    forms = reply_forms({row.id: row for row in frontend_messages(SPEC).values()})
    decoder = Decoder(forms, REPLY_FLAGS, BackendError, "replies")
    frames: list[Frame] = []
    while len(frames) < len(requests):
        data, received, _, _ = socket.recv_fds(sock, 4096, 8)
        assert data, "the connection was closed"
        frames += decoder.feed(data, received)
    sock.setblocking(True)  # the connection has the same description
    sock.close()
    assert [frame.id for frame in frames] == [number for number, _, _ in requests]
    os.close(frames[0].fds[0])
    placed = frames[2].payload
    assert isinstance(placed, MemTable)
    assert [frame.payload for frame in frames if frame is not frames[2]][1:] == [U64(0)] * 4
    incoming.start()
    kind.prepare(incoming.rig)
    kind.work(incoming.rig, 0)
