"""The disk: each kind of request, its limits, its configuration space, its lock."""
# ruff: noqa: D102, D103 - the names say what they are about

from __future__ import annotations

import itertools
import os
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import pytest

from backends import blk_device, limits, stats
from backends.blk_device import BlkDevice
from backends.image import Image
from backends.io_pool import IoPool
from tests.backends.rig import LOG_ALL, QEMU_ORDER, RING_SIZE, Rig
from tests.timeouts import TIMEOUT
from vhost_user.dirty_log import DirtyLog
from vhost_user.errors import Refused
from vhost_user.inflight import InflightRegion
from vhost_user.messages import FrontendRequest as F
from vhost_user.messages import Request
from vhost_user.payloads import Config, Inflight, LogArea, VringState
from vhost_user.readiness import readable
from vhost_user.virtio.blk import (
    REQUEST_HEADER,
    SEGMENT,
    VIRTIO_BLK_F_DISCARD,
    VIRTIO_BLK_F_FLUSH,
    VIRTIO_BLK_F_RO,
    VIRTIO_BLK_F_WRITE_ZEROES,
    VIRTIO_BLK_S_IOERR,
    VIRTIO_BLK_S_OK,
    VIRTIO_BLK_S_UNSUPP,
    VIRTIO_BLK_T_DISCARD,
    VIRTIO_BLK_T_FLUSH,
    VIRTIO_BLK_T_GET_ID,
    VIRTIO_BLK_T_IN,
    VIRTIO_BLK_T_OUT,
    VIRTIO_BLK_T_WRITE_ZEROES,
    VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
)

if TYPE_CHECKING:
    from pathlib import Path

    from backends.loop import Loop
    from backends.ring import Ring
    from vhost_user.virtqueue import DeviceQueue

pytestmark = pytest.mark.usefixtures("compiled")

SECTORS = 512
SIZE = SECTORS * 512

Attach = Callable[..., Rig]


class Disk:
    """A disk with its front-end, and its requests as a driver would make them."""

    def __init__(self, device: BlkDevice, attach: Attach, path: Path, **rig: object) -> None:
        self.device = device
        self.path = path
        self.rig = attach(device, **rig)

    def request(
        self,
        kind: int,
        sector: int = 0,
        data: bytes = b"",
        room: int = 0,
        *,
        ring: int = 0,
        split: Sequence[int] = (),
    ) -> tuple[int, bytes, int]:
        """Status, what was read, bytes written; ``split`` cuts the readable part there."""
        rig = self.rig
        out = REQUEST_HEADER.pack(kind, 0, sector) + data
        gpa, memory = rig.alloc(len(out))
        memory[:] = out
        cuts = [0, *(split or (16,)), len(out)]
        parts = [(gpa + a, b - a) for a, b in itertools.pairwise(cuts) if b > a]
        answer_gpa, answer = rig.alloc(room + 1)
        answer[room] = 0xFF
        writable = [(answer_gpa, room), (answer_gpa + room, 1)] if room else [(answer_gpa, 1)]
        rig.rings[ring].add(parts, writable)
        done = rig.rings[ring].wait()
        return answer[room], bytes(answer[:room]), done.written

    def content(self, sector: int, sectors: int = 1) -> bytes:
        return self.path.read_bytes()[sector * 512 : (sector + sectors) * 512]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "disk"
    file.write_bytes(b"".join(struct.pack("<Q", n) * 64 for n in range(SECTORS)))
    return file


@pytest.fixture
def pool() -> Iterator[IoPool]:
    made = IoPool(2)
    yield made
    made.close()


@pytest.fixture
def make(loop: Loop, pool: IoPool, attach: Attach, path: Path) -> Callable[..., Disk]:
    def made(*, read_only: bool = False, **options: object) -> Disk:
        image = Image(str(path), read_only=read_only)
        device = BlkDevice("disk", loop, image, 2, pool, serial="serial-0123456789-too-long")
        return Disk(device, attach, path, **options)

    return made


@pytest.fixture
def disk(make: Callable[..., Disk]) -> Disk:
    made = make()
    made.rig.start()
    return made


def config(disk: Disk, offset: int, size: int) -> bytes | None:
    reply = disk.rig.call(Request(F.GET_CONFIG, Config(offset, 0, bytes(size))))
    assert reply is not None
    if reply.payload is None:
        return None
    assert isinstance(reply.payload, Config)
    assert reply.payload.offset == offset
    return reply.payload.data


# Requests


def test_read(disk: Disk) -> None:
    status, data, written = disk.request(VIRTIO_BLK_T_IN, 7, room=4096)
    assert (status, written) == (VIRTIO_BLK_S_OK, 4097)
    assert data == disk.content(7, 8)


def test_write(disk: Disk) -> None:
    data = bytes(range(256)) * 16
    assert disk.request(VIRTIO_BLK_T_OUT, 9, data) == (VIRTIO_BLK_S_OK, b"", 1)
    assert disk.content(9, 8) == data
    assert disk.content(8) == struct.pack("<Q", 8) * 64
    assert disk.content(17) == struct.pack("<Q", 17) * 64


@pytest.mark.parametrize("split", [(4, 16), (8,), (16, 17, 500), (20,)])
def test_header_and_data_may_be_cut_anywhere(disk: Disk, split: tuple[int, ...]) -> None:
    data = b"\x17" * 1024
    assert disk.request(VIRTIO_BLK_T_OUT, 3, data, split=split)[0] == VIRTIO_BLK_S_OK
    assert disk.content(3, 2) == data


def test_large_requests(disk: Disk) -> None:
    status, data, _ = disk.request(VIRTIO_BLK_T_IN, 0, room=65536)
    assert status == VIRTIO_BLK_S_OK
    assert data == disk.content(0, 128)


def test_last_sector_and_beyond(disk: Disk) -> None:
    assert disk.request(VIRTIO_BLK_T_IN, SECTORS - 1, room=512)[0] == VIRTIO_BLK_S_OK
    for sector, size in ((SECTORS, 512), (SECTORS - 1, 1024), ((1 << 64) - 1, 512), (1 << 55, 512)):
        status, data, written = disk.request(VIRTIO_BLK_T_IN, sector, room=size)
        assert (status, data, written) == (VIRTIO_BLK_S_IOERR, bytes(size), 1)
        assert disk.request(VIRTIO_BLK_T_OUT, sector, bytes(size))[0] == VIRTIO_BLK_S_IOERR
    assert disk.path.stat().st_size == SIZE


def test_not_whole_sectors(disk: Disk) -> None:
    assert disk.request(VIRTIO_BLK_T_IN, 0, room=500)[0] == VIRTIO_BLK_S_IOERR
    assert disk.request(VIRTIO_BLK_T_OUT, 0, b"x" * 100)[0] == VIRTIO_BLK_S_IOERR


def test_unknown_request(disk: Disk) -> None:
    for kind in (2, 3, 5, 24, 0xFFFF_FFFF):
        assert disk.request(kind)[0] == VIRTIO_BLK_S_UNSUPP


def test_flush(disk: Disk) -> None:
    assert disk.request(VIRTIO_BLK_T_FLUSH) == (VIRTIO_BLK_S_OK, b"", 1)


def test_get_id(disk: Disk) -> None:
    status, data, written = disk.request(VIRTIO_BLK_T_GET_ID, room=20)
    assert (status, data, written) == (VIRTIO_BLK_S_OK, b"serial-0123456789-to", 21)
    assert disk.request(VIRTIO_BLK_T_GET_ID, room=19)[0] == VIRTIO_BLK_S_IOERR


def test_write_zeroes(disk: Disk) -> None:
    segments = SEGMENT.pack(8, 8, 0) + SEGMENT.pack(100, 1, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP)
    assert disk.request(VIRTIO_BLK_T_WRITE_ZEROES, 0, segments)[0] == VIRTIO_BLK_S_OK
    assert disk.content(8, 8) == bytes(4096)
    assert disk.content(100) == bytes(512)
    assert disk.content(16) == struct.pack("<Q", 16) * 64
    assert disk.content(101) == struct.pack("<Q", 101) * 64


def test_discard(disk: Disk) -> None:
    assert disk.request(VIRTIO_BLK_T_DISCARD, 0, SEGMENT.pack(64, 64, 0))[0] == VIRTIO_BLK_S_OK
    assert disk.content(63) == struct.pack("<Q", 63) * 64
    assert disk.content(128) == struct.pack("<Q", 128) * 64


@pytest.mark.parametrize(
    ("kind", "data", "status"),
    [
        (VIRTIO_BLK_T_DISCARD, SEGMENT.pack(SECTORS, 1, 0), VIRTIO_BLK_S_IOERR),
        (VIRTIO_BLK_T_DISCARD, SEGMENT.pack(0, SECTORS + 1, 0), VIRTIO_BLK_S_IOERR),
        (
            VIRTIO_BLK_T_DISCARD,
            SEGMENT.pack(0, 1, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP),
            VIRTIO_BLK_S_UNSUPP,
        ),
        (VIRTIO_BLK_T_DISCARD, b"", VIRTIO_BLK_S_IOERR),
        (VIRTIO_BLK_T_DISCARD, bytes(17), VIRTIO_BLK_S_IOERR),
        (VIRTIO_BLK_T_DISCARD, SEGMENT.pack(0, 1, 0) * 33, VIRTIO_BLK_S_IOERR),
        (VIRTIO_BLK_T_WRITE_ZEROES, SEGMENT.pack(0, 1, 2), VIRTIO_BLK_S_UNSUPP),
        (VIRTIO_BLK_T_WRITE_ZEROES, SEGMENT.pack(SECTORS - 1, 2, 0), VIRTIO_BLK_S_IOERR),
        (VIRTIO_BLK_T_WRITE_ZEROES, SEGMENT.pack(0, 0xFFFF_FFFF, 0), VIRTIO_BLK_S_IOERR),
    ],
)
def test_invalid_segments(disk: Disk, kind: int, data: bytes, status: int) -> None:
    before = disk.path.read_bytes()
    assert disk.request(kind, 0, data)[0] == status
    assert disk.path.read_bytes() == before


def test_read_only(make: Callable[..., Disk]) -> None:
    disk = make(read_only=True)
    disk.rig.start()
    offered = disk.rig.connection.offered_features
    assert offered >> VIRTIO_BLK_F_RO & 1
    assert not offered >> VIRTIO_BLK_F_DISCARD & 1
    before = disk.path.read_bytes()
    assert disk.request(VIRTIO_BLK_T_IN, 5, room=512)[1] == disk.content(5)
    assert disk.request(VIRTIO_BLK_T_OUT, 5, bytes(512))[0] == VIRTIO_BLK_S_IOERR
    assert disk.request(VIRTIO_BLK_T_DISCARD, 0, SEGMENT.pack(0, 8, 0))[0] == VIRTIO_BLK_S_IOERR
    assert (
        disk.request(VIRTIO_BLK_T_WRITE_ZEROES, 0, SEGMENT.pack(0, 8, 0))[0] == VIRTIO_BLK_S_IOERR
    )
    assert disk.path.read_bytes() == before


def test_file_that_has_shrunk(disk: Disk) -> None:
    with disk.path.open("r+b") as file:
        file.truncate(512 * 10)
    assert disk.request(VIRTIO_BLK_T_IN, 4, room=512)[0] == VIRTIO_BLK_S_OK
    assert disk.request(VIRTIO_BLK_T_IN, 9, room=1024)[0] == VIRTIO_BLK_S_IOERR


def test_every_ring_serves(disk: Disk) -> None:
    for ring in (0, 1, 1, 0):
        assert disk.request(VIRTIO_BLK_T_IN, ring, room=512, ring=ring)[1] == disk.content(ring)


def test_more_requests_than_one_poll_serves(disk: Disk) -> None:
    """The ring is polled again without another kick, and in order."""
    rig, ring = disk.rig, disk.rig.rings[0]
    memory: list[memoryview] = []
    for sector in range(30):
        gpa, header = rig.alloc(16)
        header[:] = REQUEST_HEADER.pack(VIRTIO_BLK_T_IN, 0, sector)
        data_gpa, data = rig.alloc(513, rig.low)
        ring.driver.add([(gpa, 16)], [(data_gpa, 513)])
        memory.append(data)
    if ring.driver.publish():
        ring.kick()
    for sector, data in enumerate(memory):
        ring.wait()
        assert bytes(data[:512]) == disk.content(sector)


def test_requests_without_header_or_status_break_the_ring(disk: Disk) -> None:
    gpa, _ = disk.rig.alloc(64)
    disk.rig.rings[0].add([(gpa, 8)], [(gpa, 1)])
    assert readable([disk.rig.rings[0].err_fd], TIMEOUT)
    disk.rig.rings[1].add([(gpa, 16)], [])
    assert readable([disk.rig.rings[1].err_fd], TIMEOUT)


# Configuration space


def test_config_space(disk: Disk) -> None:
    data = config(disk, 0, 60)
    assert data is not None
    assert struct.unpack_from("<Q", data)[0] == SECTORS
    assert struct.unpack_from("<I", data, 12)[0] == blk_device.SEG_MAX
    assert struct.unpack_from("<I", data, 20)[0] == 512
    assert struct.unpack_from("<H", data, 34)[0] == 2
    assert struct.unpack_from("<III", data, 36) == (
        blk_device.MAX_SEGMENT_SECTORS,
        limits.MAX_SEGMENTS,
        1,
    )
    assert struct.unpack_from("<IIB", data, 48) == (
        blk_device.MAX_SEGMENT_SECTORS,
        limits.MAX_SEGMENTS,
        1,
    )
    assert config(disk, 34, 2) == b"\x02\x00"
    assert config(disk, 0, 256) == data + bytes(196)
    assert config(disk, 200, 57) is None


def test_config_space_is_read_only(disk: Disk) -> None:
    before = config(disk, 0, 60)
    with pytest.raises(Refused):
        disk.rig.ack(F.SET_CONFIG, Config(0, 0, b"\xff" * 8))
    assert config(disk, 0, 60) == before


def test_offers(disk: Disk) -> None:
    offered = disk.rig.connection.offered_features
    for bit in (
        VIRTIO_BLK_F_FLUSH,
        VIRTIO_BLK_F_DISCARD,
        VIRTIO_BLK_F_WRITE_ZEROES,
        12,
    ):
        assert offered >> bit & 1
    assert not offered >> VIRTIO_BLK_F_RO & 1


# Requests in flight, and the lock


def test_memory_is_removed_with_requests_in_flight(make: Callable[..., Disk], pool: IoPool) -> None:
    """They complete in the old memory; no request is taken until the memory is back."""
    disk = make()
    rig = disk.rig.start()
    held = hold(pool, 2)
    flush(disk, 0)
    rig.rem_mem_reg(rig.low)
    gpa, header = rig.alloc(16)
    header[:] = REQUEST_HEADER.pack(VIRTIO_BLK_T_GET_ID, 0, 0)
    answer_gpa, answer = rig.alloc(21)
    rig.rings[0].add([(gpa, 16)], [(answer_gpa, 21)])
    on_loop(disk.device.loop.base)
    assert in_use(disk, 0)
    held.set()
    assert rig.rings[0].wait().written == 1
    assert readable([rig.rings[0].err_fd], TIMEOUT), "the ring signals that it is not served"
    assert not in_use(disk, 0)
    assert bytes(answer) == bytes(21)
    rig.add_mem_reg(rig.low)
    assert rig.rings[0].wait().written == 21
    assert bytes(answer[:6]) == b"serial"


def test_memory_is_back_before_requests_in_flight_are_done(
    make: Callable[..., Disk], pool: IoPool
) -> None:
    disk = make()
    rig = disk.rig.start()
    held = hold(pool, 2)
    flush(disk, 0)
    rig.rem_mem_reg(rig.low)
    rig.add_mem_reg(rig.low)
    held.set()
    assert rig.rings[0].wait().written == 1
    assert disk.request(VIRTIO_BLK_T_IN, 3, room=512)[0] == VIRTIO_BLK_S_OK
    assert not readable([rig.rings[0].err_fd], 0)


def test_front_end_vanishes_with_requests_in_flight(
    make: Callable[..., Disk], pool: IoPool
) -> None:
    disk = make()
    rig = disk.rig.start()
    held = hold(pool, 2)
    flush(disk, 0)
    rig.connection.close()
    on_loop(disk.device.loop.base)
    assert disk.rig.backend.memory.regions, "the request in flight still uses the memory"
    held.set()
    pool.close()
    on_loop(disk.device.loop.base)
    assert not disk.rig.backend.memory.regions


def test_completion_that_cannot_be_logged_breaks_the_ring(
    make: Callable[..., Disk], pool: IoPool
) -> None:
    """It comes from the pool, and not from a kick."""
    disk = make()
    rig = disk.rig
    log = DirtyLog.create(64)
    rig.call(Request(F.SET_LOG_BASE, LogArea(log.size, 0), (log.fd,)))
    rig.features |= LOG_ALL
    rig.start()
    held = hold(pool, 2)
    flush(disk, 0)
    rig.connection.submit([Request(F.GET_VRING_BASE, VringState(0, 0))])
    held.set()
    assert readable([rig.rings[0].err_fd], TIMEOUT)
    assert readable([rig.connection.fileno()], TIMEOUT), "it is not in flight any more"
    assert rig.connection.receive()[0].payload == VringState(0, 1)
    assert rig.rings[0].driver.pop() is None
    log.close()


def test_two_sides_never_have_started_rings(
    make: Callable[..., Disk], caplog: pytest.LogCaptureFixture
) -> None:
    source, destination = make(), make()
    source.rig.start()
    assert source.request(VIRTIO_BLK_T_IN, 1, room=512)[0] == VIRTIO_BLK_S_OK
    rig = destination.rig.start()
    assert readable([rig.rings[0].err_fd], TIMEOUT)
    assert "in use by another back-end" in caplog.text
    for ring in source.rig.rings:
        ring.stop()
    assert destination.request(VIRTIO_BLK_T_IN, 1, room=512)[0] == VIRTIO_BLK_S_OK


def test_image_in_use_is_tried_again_without_another_kick(
    make: Callable[..., Disk], caplog: pytest.LogCaptureFixture
) -> None:
    """The kick that was to start the ring came while the image was in use, and only then."""
    source, destination = make(), make()
    source.rig.start()
    assert source.request(VIRTIO_BLK_T_IN, 1, room=512)[0] == VIRTIO_BLK_S_OK
    rig = destination.rig.start()
    gpa, header = rig.alloc(16)
    header[:] = REQUEST_HEADER.pack(VIRTIO_BLK_T_IN, 0, 3)
    data_gpa, data = rig.alloc(513)
    rig.rings[0].add([(gpa, 16)], [(data_gpa, 513)])
    for ring in rig.rings:
        assert readable([ring.err_fd], TIMEOUT)
        os.eventfd_read(ring.err_fd)
    assert rig.rings[0].idle(0.1), "ten times as long as it takes to try again"
    assert not readable([rig.rings[0].err_fd], 0)
    assert caplog.text.count("is not started") == 1
    for ring in source.rig.rings:
        ring.stop()
    assert rig.rings[0].wait().written == 513
    assert bytes(data[:512]) == destination.content(3)


def test_ring_that_was_stopped_is_not_tried_again(
    make: Callable[..., Disk], caplog: pytest.LogCaptureFixture
) -> None:
    source, destination = make(), make()
    source.rig.start()
    assert source.request(VIRTIO_BLK_T_IN, 1, room=512)[0] == VIRTIO_BLK_S_OK
    rig = destination.rig.start()
    for ring in rig.rings:
        # All of them first: a ring that is refused after another was stopped is reported again.
        assert readable([ring.err_fd], TIMEOUT)
    for ring in rig.rings:
        assert ring.stop() == 0
    for ring in source.rig.rings:
        ring.stop()
    rig.rings[0].idle(0.05)
    assert source.device.acquire() is None
    for ring in rig.rings:
        ring.set_up(QEMU_ORDER)
        ring.kick()
    on_loop(destination.device.loop.base)
    assert caplog.text.count("is not started") == 2, "a new start, reported again"


def in_use(disk: Disk, ring: int) -> bool:
    """Whether the ring is active."""
    return disk.rig.backend.rings[ring].queue is not None


def flush(disk: Disk, ring: int) -> memoryview:
    """Have the device take a flush, which goes to the pool; its status byte, 0xFF before it."""
    rig = disk.rig
    gpa, header = rig.alloc(16)
    header[:] = REQUEST_HEADER.pack(VIRTIO_BLK_T_FLUSH, 0, 0)
    status_gpa, status = rig.alloc(1)
    status[0] = 0xFF
    rig.rings[ring].add([(gpa, 16)], [(status_gpa, 1)])
    on_loop(disk.device.loop.base)
    assert disk.rig.backend.rings[ring].in_flight == 1
    return status


def hold(pool: IoPool, threads: int) -> threading.Event:
    """Keep all threads of the pool busy until the event is set."""
    held = threading.Event()
    for _ in range(threads):
        pool.submit(lambda: held.wait(TIMEOUT), lambda error: pytest.fail(str(error)))
    return held


def on_loop(loop: Loop) -> None:
    """Wait until the loop has handled all kicks and messages that were sent before.

    The turn that runs the first callback may have begun before a kick. The next turn finds it, and
    handles it after its own callbacks; the callback of the turn after that is the first behind it.
    """
    done = threading.Event()
    loop.post(lambda: loop.again(lambda: loop.again(done.set)))
    assert done.wait(TIMEOUT)


def test_requests_of_the_inflight_region_are_served_in_several_turns(
    make: Callable[..., Disk],
) -> None:
    """A stop that comes between two of them waits for the last one."""
    disk = make()
    rig = disk.rig
    rig.set_features()
    rig.set_mem_table()
    reply = rig.call(Request(F.GET_INFLIGHT_FD, Inflight(0, 0, 1, RING_SIZE)))
    assert reply is not None
    assert isinstance(reply.payload, Inflight)
    fd = reply.fds[0]
    part = InflightRegion(fd, *reply.payload).ring(0)
    assert part is not None
    part.resume(0)
    heads = []
    for _ in range(RING_SIZE // 2):
        header_gpa, header = rig.alloc(16)
        header[:] = REQUEST_HEADER.pack(VIRTIO_BLK_T_IN, 0, 0)
        heads.append(rig.rings[0].driver.add([(header_gpa, 16)], [(rig.alloc(513)[0], 513)]))
        part.taken(heads[-1])
    rig.rings[0].driver.publish()
    rig.ack(F.SET_INFLIGHT_FD, reply.payload, (fd,))
    os.close(fd)
    turns: list[int] = []
    process = disk.device.process

    def counted(ring: Ring, queue: DeviceQueue) -> bool:
        turns.append(queue.to_resubmit)
        if len(turns) == 1:
            due = rig.connection.submit([Request(F.GET_VRING_BASE, VringState(0, 0))])
            assert due == 1
            assert rig.connection.flush()
        return process(ring, queue)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(disk.device, "process", counted)
        rig.rings[0].set_up(QEMU_ORDER)
        rig.rings[0].kick()
        assert readable([rig.connection.fileno()], TIMEOUT)
    assert rig.connection.receive()[0].payload == VringState(0, RING_SIZE // 2)
    assert turns[:2] == [RING_SIZE // 2, RING_SIZE // 2 - limits.BUDGET]
    done = [rig.rings[0].wait().head for _ in heads]
    assert done == heads


@pytest.fixture
def held(disk: Disk) -> Disk:
    """A disk whose file system cannot promise not to wait."""
    disk.device._image.write_flags = None
    return disk


def test_writes_are_made_by_the_loops_thread(held: Disk) -> None:
    for number in range(8):
        data = bytes([number + 1]) * 512
        assert held.request(VIRTIO_BLK_T_OUT, number, data) == (VIRTIO_BLK_S_OK, b"", 1)
        assert held.content(number) == data
    assert held.device.loop.base._spare is not None
    assert not held.device._pool._threads


def test_a_write_that_fails_in_the_loops_thread(held: Disk, path: Path) -> None:
    errors = held.device.counters[stats.ERRORS]
    read_only = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    os.dup2(read_only, held.device._image.fd, inheritable=False)
    os.close(read_only)
    for _ in range(2):
        assert held.request(VIRTIO_BLK_T_OUT, 0, bytes(512)) == (VIRTIO_BLK_S_IOERR, b"", 1)
    assert held.device.counters[stats.ERRORS] == errors + 2


def test_after_a_write_has_blocked_other_threads_make_the_next_ones(held: Disk) -> None:
    held.device._slow_until = time.monotonic_ns() + 10**12
    assert held.request(VIRTIO_BLK_T_OUT, 0, bytes(512)) == (VIRTIO_BLK_S_OK, b"", 1)
    assert held.device.loop.base._spare is None
    assert len(held.device._pool._threads) == 1
    held.device._slow_until = 1
    assert held.request(VIRTIO_BLK_T_OUT, 0, bytes(512)) == (VIRTIO_BLK_S_OK, b"", 1)
    assert held.device.loop.base._spare is not None


def test_a_write_that_blocks_is_remembered(held: Disk) -> None:
    held.device._blocked()
    assert held.device._is_slow
