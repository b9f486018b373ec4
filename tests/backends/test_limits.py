"""What a front-end or its guest can make a program hold, or do at once, has a bound."""
# ruff: noqa: D102, D103 - the names say what they are about

from __future__ import annotations

import os
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from backends import limits
from tests.backends.bounds import disks, nics, rings, sockets
from tests.backends.bounds.lab import TRIALS, Lab
from tests.backends.isolation import pair
from tests.backends.rig import MIB, RamRegion, Rig, RigRing
from tests.backends.served import Blk, Net
from tests.timeouts import TIMEOUT
from vhost_user.channel import READ_FDS
from vhost_user.codec import NEED_REPLY, VERSION, encode
from vhost_user.connection import MAX_READS
from vhost_user.messages import FrontendRequest as F
from vhost_user.payloads import U64, Inflight, VringState
from vhost_user.readiness import writable
from vhost_user.virtio.blk import (
    REQUEST_HEADER,
    VIRTIO_BLK_S_IOERR,
    VIRTIO_BLK_S_OK,
    VIRTIO_BLK_T_FLUSH,
    VIRTIO_BLK_T_GET_ID,
    VIRTIO_BLK_T_IN,
    VIRTIO_BLK_T_OUT,
    VIRTIO_BLK_T_WRITE_ZEROES,
)
from vhost_user.virtqueue import Chain

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Importing them adds their trials to the table.
TRIED_IN = (disks, nics, rings, sockets)
DOCUMENT = Path(__file__).parents[2] / "docs" / "reference" / "backends.md"
GIB = 1 << 30
#: Bytes that a program may grow by while it is flooded: a few large reads, and what Python keeps.
GROWTH = 64 * MIB
#: Messages of a flood: each of them more than the bounds together allow to wait.
FLOOD = 20_000


def test_the_document_has_the_table() -> None:
    text = DOCUMENT.read_text()
    begin, end = "<!-- limits: begin -->\n", "\n<!-- limits: end -->"
    assert text[text.index(begin) + len(begin) : text.index(end)] == limits.table()


def test_each_bound_is_named_once() -> None:
    assert len({bound.what for bound in limits.BOUNDS}) == len(limits.BOUNDS)


@pytest.mark.parametrize(
    ("readable", "writable", "requests"),
    [(0, 0, 1), (1, 2, 1), (63, 0, 1), (60, 4, 2), (0, 64, 2), (128, 0, 3), (1000, 24, 17)],
)
def test_a_long_chain_counts_as_several_requests(
    readable: int, writable: int, requests: int
) -> None:
    buffer = memoryview(b"")
    chain = Chain(0, [buffer] * readable, [buffer] * writable, [])
    assert limits.requests_in(chain) == requests


@pytest.mark.parametrize("bound", limits.BOUNDS, ids=lambda bound: bound.what)
def test_a_bound_holds(bound: limits.Bound, tmp_path: Path) -> None:
    """A program does what the row says when a front-end goes beyond the bound."""
    assert bound.what in TRIALS, "no trial in tests/backends/bounds"
    with ExitStack() as stack:
        TRIALS[bound.what](Lab(tmp_path, stack), bound.most)


def test_each_trial_is_of_a_row() -> None:
    assert set(TRIALS) == {bound.what for bound in limits.BOUNDS}


@pytest.fixture(scope="module")
def blk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pair.Pair]:
    """A program with two disks, of which the second is used all the time."""
    with pair.running(Blk(), tmp_path_factory.mktemp("blk")) as given:
        yield given


@pytest.fixture
def rig(blk: pair.Pair) -> Iterator[Rig]:
    made = pair.connect(blk.victim, blk.kind)
    yield made
    made.close()
    blk.serves_the_next()
    blk.neighbour.goes_on()


def _resident(pid: int) -> int:
    """Bytes of memory, without that of guests."""
    fields = dict(
        line.split(":\t")
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if ":\t" in line
    )
    return int(fields["RssAnon"].split()[0]) * 1024


def _descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


class Flood:
    """Sends without ever reading, as far as the back-end takes it."""

    def __init__(self, rig: Rig) -> None:
        self.sock = socket.socket(fileno=os.dup(rig.connection.fileno()))
        self.sock.setblocking(False)
        self.sent = 0

    def send(self, data: bytes, fds: tuple[int, ...] = (), timeout: float = 0.5) -> bool:
        """False when the back-end has not taken it within that time."""
        while True:
            try:
                done = socket.send_fds(self.sock, [data], fds) if fds else self.sock.send(data)
            except BlockingIOError:
                if not writable([self.sock], timeout):
                    return False
            else:
                assert done == len(data)
                self.sent += 1
                return True

    def close(self) -> None:
        self.sock.close()


def test_descriptors_of_replies_that_are_not_read(blk: pair.Pair, rig: Rig) -> None:
    before = _descriptors(blk.process.pid)
    flood = Flood(rig)
    message = encode(F.GET_INFLIGHT_FD, VERSION, Inflight(0, 0, 1, 2))
    while flood.sent < FLOOD and flood.send(message):
        pass
    assert flood.sent < FLOOD, "all of them were taken"
    blk.neighbour.goes_on()
    assert _descriptors(blk.process.pid) < before + 1000
    flood.close()


def test_messages_and_descriptors_that_wait_for_a_stop(tmp_path: Path) -> None:
    """Those of one turn are taken; the others wait in the socket, and are handled afterwards."""
    kind = Blk()
    with pair.running(kind, tmp_path, "--stop-time", "2s") as given:
        rig = pair.connect(given.victim, kind)
        rig.start()
        kind.work(rig)
        before = _descriptors(given.process.pid)
        flood = Flood(rig)
        flood.send(encode(F.GET_VRING_BASE, VERSION, VringState(kind.ring, 0)))
        call = encode(F.SET_VRING_CALL, VERSION | NEED_REPLY, U64(0))
        taken = 0
        while taken < FLOOD and flood.send(call, (rig.rings[0].call_fd,), timeout=0.2):
            taken += 1
        assert _descriptors(given.process.pid) < before + MAX_READS * READ_FDS
        given.neighbour.goes_on()
        assert taken < FLOOD, "all of them were taken"
        rig.connection.close()
        flood.close()
        rig.close()
        given.serves_the_next()


class Large:
    """A ring whose guest has one region of 1 GiB, which requests name again and again."""

    def __init__(self, rig: Rig) -> None:
        rig.start()
        self.ram = RamRegion(8 * GIB, GIB, 0x7D00_0000_0000)
        rig.add_mem_reg(self.ram)
        self.ring: RigRing = rig.rings[Blk.ring]
        self.rig = rig

    def request(self, kind: int, readable: int, writable: int, sector: int = 0) -> tuple[int, int]:
        """A request with so many buffers of 1 GiB; its status, and the used length."""
        whole = (self.ram.region.gpa, GIB)
        gpa, data = self.rig.alloc(17)
        data[:] = REQUEST_HEADER.pack(kind, 0, sector) + b"\xff"
        self.ring.add([(gpa, 16), *([whole] * readable)], [*([whole] * writable), (gpa + 16, 1)])
        written = self.ring.wait().written
        return data[16], written

    def close(self) -> None:
        self.ram.close()


@pytest.mark.parametrize(
    ("kind", "readable", "writable", "status"),
    [
        (VIRTIO_BLK_T_FLUSH, 50, 0, VIRTIO_BLK_S_OK),
        (VIRTIO_BLK_T_GET_ID, 50, 1, VIRTIO_BLK_S_OK),
        (VIRTIO_BLK_T_WRITE_ZEROES, 50, 0, VIRTIO_BLK_S_IOERR),
        (VIRTIO_BLK_T_OUT, 50, 0, VIRTIO_BLK_S_IOERR),
        (VIRTIO_BLK_T_IN, 0, 50, VIRTIO_BLK_S_IOERR),
        (0x99, 50, 0, 2),
    ],
)
def test_a_request_of_50_gib(
    blk: pair.Pair, rig: Rig, kind: int, readable: int, writable: int, status: int
) -> None:
    """Nothing is copied that the request does not need."""
    os.truncate(blk.folder / pair.VICTIM / "disk.img", 1 << 40)
    before = _resident(blk.process.pid)
    large = Large(rig)
    assert large.request(kind, readable, writable) == (
        status,
        21 if kind == VIRTIO_BLK_T_GET_ID else 1,
    )
    large.close()
    assert _resident(blk.process.pid) < before + GROWTH


def test_a_frame_of_50_gib_is_dropped(tmp_path: Path) -> None:
    with pair.running(Net(), tmp_path) as given:
        rig = pair.connect(given.victim, given.kind)
        rig.start()
        given.kind.prepare(rig)
        ram = RamRegion(8 * GIB, GIB, 0x7D00_0000_0000)
        rig.add_mem_reg(ram)
        before = _resident(given.process.pid)
        rig.rings[Net.ring].add([(ram.region.gpa, GIB)] * 50, [])
        rig.rings[Net.ring].wait(TIMEOUT)
        given.kind.work(rig, 1)
        assert _resident(given.process.pid) < before + GROWTH
        given.neighbour.goes_on()
        ram.close()
        rig.close()
