"""A wait is the device's own: a disk that hangs, pages that never come.

The neighbour is served meanwhile, and its stops are answered.
"""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import os
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import pytest

from backends.image import Image
from tests.backends.isolation import pair
from tests.backends.served import KINDS, Blk
from tests.backends.test_postcopy import Incoming, begin
from tests.vhost_user.pages import await_fault, needs_userfaultfd, punch_holes
from tests.waiting import wait_until
from vhost_user.errors import Disconnected, Refused
from vhost_user.messages import FrontendRequest as F
from vhost_user.messages import Request
from vhost_user.payloads import VringState
from vhost_user.readiness import readable
from vhost_user.virtio.blk import (
    REQUEST_HEADER,
    SEGMENT,
    VIRTIO_BLK_S_OK,
    VIRTIO_BLK_T_DISCARD,
    VIRTIO_BLK_T_FLUSH,
    VIRTIO_BLK_T_IN,
    VIRTIO_BLK_T_OUT,
    VIRTIO_BLK_T_WRITE_ZEROES,
)

if TYPE_CHECKING:
    from pathlib import Path

    from tests.backends.rig import Rig

#: Where a request of each kind calls the file system.
CALLS = {
    "write": (VIRTIO_BLK_T_OUT, "image.Image.write > pwritev"),
    "read": (VIRTIO_BLK_T_IN, "image.Image.read > preadv"),
    "flush": (VIRTIO_BLK_T_FLUSH, "image.Image.flush > fdatasync"),
    "discard": (VIRTIO_BLK_T_DISCARD, "image.Image._allocate"),
    "write-zeroes": (VIRTIO_BLK_T_WRITE_ZEROES, "image.Image._allocate"),
}
#: More than a disk serves in the loop's thread, wherever its image is.
LARGE = 512 << 10


def _submit(rig: Rig, kind: int, length: int = LARGE) -> memoryview:
    """A request; its status byte. A large one is served by another thread."""
    gpa, data = rig.alloc(LARGE + 4096)
    data[:16] = REQUEST_HEADER.pack(kind, 0, 0)
    status = data[LARGE + 100 : LARGE + 101]
    status[0] = 0xFF
    readable_, writable = [(gpa, 16)], [(gpa + LARGE + 100, 1)]
    if kind == VIRTIO_BLK_T_OUT:
        readable_.append((gpa + 64, length))
    elif kind == VIRTIO_BLK_T_IN:
        writable.insert(0, (gpa + 64, length))
    elif kind != VIRTIO_BLK_T_FLUSH:
        data[16 : 16 + SEGMENT.size] = SEGMENT.pack(0, 8, 0)
        readable_ = [(gpa, 16 + SEGMENT.size)]
    rig.rings[Blk.ring].add(readable_, writable)
    return status


@pytest.mark.parametrize("name", CALLS)
def test_a_disk_that_hangs(name: str, tmp_path: Path) -> None:
    kind, point = CALLS[name]
    with pair.running_injected(Blk(), tmp_path) as (given, orders):
        rig = pair.connect(given.victim, given.kind)
        rig.start()
        orders(hold=pair.VICTIM, point=point)
        status = _submit(rig, kind)
        wait_until(lambda: orders(held=True), "the request is at its system call")
        assert orders(held=True).startswith("io-")
        given.neighbour.goes_on()
        given.neighbour.stops()
        # The device itself goes on, but for the stop of that ring.
        other = 1 - Blk.ring
        assert rig.get_base(other) == 0
        rig.connection.submit([Request(F.GET_VRING_BASE, VringState(Blk.ring, 0))])
        given.neighbour.goes_on()
        assert not readable([rig.connection.fileno()], 0)
        assert status[0] == 0xFF
        orders(release=True)
        assert rig.rings[Blk.ring].wait()
        assert status[0] == VIRTIO_BLK_S_OK
        rig.close()
        given.serves_the_next()


@pytest.mark.parametrize(
    ("before", "point"),
    [
        pytest.param(0, "image.Image.write > pwritev", id="python"),
        pytest.param(1, "disk_batch.Writes.make", id="compiled"),
    ],
)
def test_a_small_write_that_hangs(before: int, point: str, tmp_path: Path) -> None:
    """The loop's thread makes it, where the file system cannot promise not to wait."""
    image = Image(str(Blk().image(tmp_path)))
    with suppress(OSError):
        os.pwritev(image.fd, [bytes(512)], 0, image.write_flags or 0)
        pytest.skip("this file system promises not to wait")
    image.close()
    with pair.running_injected(Blk(), tmp_path) as (given, orders):
        rig = pair.connect(given.victim, given.kind)
        rig.start()
        for _ in range(before):  # the first one shows that it cannot promise that
            _submit(rig, VIRTIO_BLK_T_OUT, 512)
            rig.rings[Blk.ring].wait()
        orders(hold=pair.VICTIM, point=point)
        status = _submit(rig, VIRTIO_BLK_T_OUT, 512)
        wait_until(lambda: orders(held=True), "the request is at its system call")
        assert not orders(held=True).startswith("io-")
        given.neighbour.goes_on()
        given.neighbour.stops()
        assert status[0] == 0xFF
        orders(release=True)
        assert rig.rings[Blk.ring].wait()
        assert status[0] == VIRTIO_BLK_S_OK
        rig.close()
        given.serves_the_next()


@needs_userfaultfd
@pytest.mark.parametrize("name", KINDS)
def test_pages_that_never_come(name: str, tmp_path: Path) -> None:
    """The stop of the ring that waits is answered as well: it has not taken the request."""
    with ExitStack() as stack, pair.running(KINDS[name](), tmp_path) as given:
        rig = pair.connect(given.victim, given.kind)
        stack.callback(rig.close)
        rig.set_features()
        incoming = Incoming(rig, stack)
        incoming.listen()
        incoming.tables()
        begin(given.kind, incoming)
        await_fault(incoming.fd)
        given.neighbour.goes_on()
        given.neighbour.stops()
        for ring in range(given.kind.rings):
            rig.get_base(ring)
        with pytest.raises(Refused):
            rig.ack(F.SET_VRING_NUM, VringState(0, 3))
        rig.connection.close()
        given.serves_the_next()


@needs_userfaultfd
@pytest.mark.parametrize("where", ["rings", "buffers", "everything"])
@pytest.mark.parametrize("name", KINDS)
def test_pages_that_are_removed_again(name: str, where: str, tmp_path: Path) -> None:
    """The rings run, and the pages do not come a second time."""
    with ExitStack() as stack, pair.running(KINDS[name](), tmp_path) as given:
        rig = pair.connect(given.victim, given.kind)
        stack.callback(rig.close)
        rig.set_features()
        incoming = Incoming(rig, stack)
        incoming.listen()
        incoming.tables()
        for ram in (rig.low, rig.high):
            os.pwrite(ram.fd, bytes(ram.bytes), ram.region.mmap_offset)
        incoming.start()
        given.kind.prepare(rig)
        given.kind.work(rig)
        if where != "buffers":
            punch_holes(rig.low.fd)
        if where != "rings":
            punch_holes(rig.high.fd)
        for ring in rig.rings:
            ring.kick()
        given.neighbour.goes_on()
        given.neighbour.stops()
        if where != "buffers":  # the device looks at its rings, and fails
            with pytest.raises(Disconnected):
                rig.call(Request(F.GET_FEATURES))
        rig.connection.close()
        given.serves_the_next()
