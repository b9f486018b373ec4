"""The compiled function of disks does what Python does, with any requests."""
# ruff: noqa: D102, D103 - the names say what they are about

from __future__ import annotations

import os
import select
import threading
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends import limits, stats
from backends.blk_device import BlkDevice
from backends.disk_batch import DiskBatch
from backends.image import Image
from backends.loop import Loop
from backends.ring_service import Served
from tests.fuzz.device import InlinePool, batches
from tests.timeouts import TIMEOUT
from tests.vhost_user.rings import Ring as Memory
from tests.vhost_user.rings import guest_memory
from tests.waiting import wait_until
from vhost_user import native
from vhost_user.errors import FrontendError
from vhost_user.mapping import losses
from vhost_user.virtio.blk import (
    REQUEST_HEADER,
    VIRTIO_BLK_S_IOERR,
    VIRTIO_BLK_S_OK,
    VIRTIO_BLK_T_FLUSH,
    VIRTIO_BLK_T_IN,
    VIRTIO_BLK_T_OUT,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from backends.io_pool import IoPool
    from backends.ring import Ring
    from vhost_user.virtqueue import DeviceQueue, DriverQueue, batch

pytestmark = pytest.mark.skipif(not native.available, reason="the extension was not built")

SIZE = 256
SECTORS = 64
MEMORY = 1 << 20
#: In guest memory: tables of descriptors, then the parts of requests.
TABLES, PARTS, PLACE = 0x8000, 0x20000, 0x4000


class Request(NamedTuple):
    """A request of a disk, in pieces of these lengths."""

    kind: int
    sector: int
    pieces: list[int]
    indirect: bool = False
    status_bytes: int = 1
    header_bytes: int = 16


class Disk:
    """A ring of a disk, its driver, and its image."""

    def __init__(self, folder: Path, name: str, stack: ExitStack, *, event_idx: bool) -> None:
        path = folder / name
        path.write_bytes(b"".join(bytes([n]) * 512 for n in range(SECTORS)))
        self.path = path
        self.image = Image(str(path))
        stack.callback(self.image.close)
        self.counters = stats.StatsWriter(1).device(0)
        table = guest_memory(MEMORY, (PARTS + 3 * PLACE,))
        stack.callback(table.close)
        self.memory = table
        self.ring = Memory(table, SIZE, event_idx=event_idx)
        self.driver: DriverQueue = self.ring.driver()
        self.driver.reset()
        self.queue: DeviceQueue = self.ring.device()
        self.batch = DiskBatch(self.image, self.counters)

    def add(self, number: int, request: Request) -> None:
        at = PARTS + number * PLACE
        header = REQUEST_HEADER.pack(request.kind, 0, request.sector)[: request.header_bytes]
        for offset, byte in enumerate(header):
            self.memory.view(at + offset, 1)[0] = byte
        parts, place = [], at + 64
        for length in request.pieces:
            for piece in self.memory.slices(place, length):
                piece[:] = bytes([number + 1]) * len(piece)
            parts.append((place, length))
            place += length
        status = (at + 32, request.status_bytes)
        readable, writable = [(at, request.header_bytes)], [status]
        if request.kind == VIRTIO_BLK_T_IN:
            writable = [*parts, status]
        else:
            readable += parts
        table = None
        if request.indirect:
            gpa = TABLES + number * 512
            table = (gpa, self.memory.view(gpa, 512))
        self.driver.add(readable, writable, table)

    def serve(self, *, collect: bool = True) -> Served:
        made = self.queue.batch()
        assert made is not None
        assert made.begin(losses[0], None, log_buffers=False)
        return self.batch.serve(made, collect=collect)

    def write(self) -> tuple[bool, int]:
        writes, made = self.batch.writes, self.queue.batch()
        assert writes is not None
        assert made is not None
        writes.make(self.image.fd, losses[0])
        made.begin(losses[0], None, log_buffers=False)
        done = writes.complete(made)
        made.end()
        self.batch.release(writes)
        return done

    def outcome(self) -> tuple[bytes, bytes, list[int]]:
        """Guest memory, the image, and the counters."""
        contents = b"".join(self.memory.slices(0, MEMORY))
        return contents, self.path.read_bytes(), list(self.counters)

    def status(self, number: int) -> int:
        return self.memory.view(PARTS + number * PLACE + 32, 1)[0]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with ExitStack() as stack:
        yield Disk(tmp_path, "disk", stack, event_idx=False)


def test_reads_are_served_and_published(disk: Disk) -> None:
    for number in range(3):
        disk.add(number, Request(VIRTIO_BLK_T_IN, 3 * number, [512, 1024]))
    disk.driver.publish()
    assert disk.serve() is Served.ALL
    assert disk.batch.notify
    assert [disk.driver.pop() for _ in range(3)] == [(4 * n, 1537) for n in range(3)]
    assert disk.memory.view(PARTS + PLACE + 64, 1536) == b"\3" * 512 + b"\4" * 512 + b"\5" * 512
    assert [disk.status(n) for n in range(3)] == [VIRTIO_BLK_S_OK] * 3
    assert disk.counters[stats.REQUESTS] == 3
    assert disk.counters[stats.BYTES_READ] == 3 * 1536


def test_writes_that_may_wait_are_taken_and_completed_later(disk: Disk) -> None:
    disk.image.write_flags = None
    for number in range(2):
        disk.add(number, Request(VIRTIO_BLK_T_OUT, number, [512]))
    disk.driver.publish()
    assert disk.serve() is Served.ALL
    assert disk.driver.pop() is None
    assert disk.batch.writes is not None
    assert disk.batch.writes.length == 2
    assert disk.write() == (True, 0)
    assert disk.driver.pop() is not None
    assert disk.path.read_bytes()[:1024] == b"\1" * 512 + b"\2" * 512
    assert disk.counters[stats.BYTES_WRITTEN] == 1024


def test_they_stay_in_the_ring_where_they_are_not_wanted(disk: Disk) -> None:
    disk.image.write_flags = None
    disk.add(0, Request(VIRTIO_BLK_T_OUT, 0, [512]))
    disk.driver.publish()
    assert disk.serve(collect=False) is Served.UNUSUAL
    assert disk.queue.last_avail == 0
    disk.image.read_only = True
    assert disk.serve() is Served.UNUSUAL
    assert disk.batch.writes is None


def test_a_write_that_fails_has_a_status_of_its_own(disk: Disk) -> None:
    disk.image.write_flags = None
    disk.add(0, Request(VIRTIO_BLK_T_OUT, 0, [512]))
    disk.driver.publish()
    disk.serve()
    writes = disk.batch.writes
    assert writes is not None
    (only,) = writes.all
    read_only = os.open(disk.path, os.O_RDONLY)
    writes.make(read_only, losses[0])
    os.close(read_only)
    assert only.error
    made = disk.queue.batch()
    assert made is not None
    made.begin(losses[0], None, log_buffers=False)
    assert writes.complete(made) == (True, 1)
    made.end()
    assert disk.status(0) == VIRTIO_BLK_S_IOERR


def test_after_a_loss_nothing_is_served_or_written(disk: Disk) -> None:
    disk.image.write_flags = None
    disk.add(0, Request(VIRTIO_BLK_T_OUT, 0, [512]))
    disk.driver.publish()
    made = disk.queue.batch()
    assert made is not None
    made.begin(losses[0] + 1, None, log_buffers=False)
    assert disk.batch.serve(made, collect=True) is Served.UNUSUAL
    disk.serve()
    writes = disk.batch.writes
    assert writes is not None
    before = disk.path.read_bytes()
    writes.make(disk.image.fd, losses[0] + 1)
    assert writes.all[0].error
    assert disk.path.read_bytes() == before


def test_a_call_serves_so_many_requests_and_bytes(disk: Disk) -> None:
    for number in range(limits.COMPILED_BUDGET + 2):
        at = number % 8
        disk.add(at, Request(VIRTIO_BLK_T_IN, 0, [512]))
    disk.driver.publish()
    assert disk.serve() is Served.SOME
    assert disk.queue.last_avail == limits.COMPILED_BUDGET
    assert disk.serve() is Served.ALL


@pytest.fixture
def event() -> Iterator[int]:
    fd = os.eventfd(0, os.EFD_NONBLOCK)
    yield fd
    os.close(fd)


@pytest.fixture
def call() -> Iterator[int]:
    fd = os.eventfd(0, os.EFD_NONBLOCK)
    yield fd
    os.close(fd)


def test_the_driver_is_interrupted_if_there_is_a_descriptor(disk: Disk, event: int) -> None:
    disk.add(0, Request(VIRTIO_BLK_T_IN, 0, [512]))
    disk.driver.publish()
    made = disk.queue.batch()
    assert made is not None
    made.begin(losses[0], None, log_buffers=False, call=event)
    assert disk.batch.serve(made, collect=True) is Served.ALL
    assert not disk.batch.notify
    assert os.eventfd_read(event) == 1
    assert disk.counters[stats.CALLS] == 1


def test_a_descriptor_that_cannot_be_signalled_is_the_callers(disk: Disk) -> None:
    disk.add(0, Request(VIRTIO_BLK_T_IN, 0, [512]))
    disk.driver.publish()
    made = disk.queue.batch()
    assert made is not None
    with disk.path.open("rb") as file:
        made.begin(losses[0], None, log_buffers=False, call=file.fileno())
        assert disk.batch.serve(made, collect=True) is Served.ALL
    assert disk.batch.notify
    assert disk.counters[stats.CALLS] == 0


def test_the_next_request_is_waited_for_until_there_is_something_else(
    disk: Disk, event: int, call: int
) -> None:
    """Without a kick: the driver publishes, and the ring did not ask for one."""
    disk.add(0, Request(VIRTIO_BLK_T_IN, 0, [512]))
    disk.driver.publish()
    made = disk.queue.batch()
    assert made is not None
    served: list[Served] = []
    with select.epoll() as events:
        events.register(event, select.EPOLLIN)
        made.begin(losses[0], None, log_buffers=False, call=call, events=events.fileno())
        made.pointer.wait_ns = int(TIMEOUT * 1e9)
        thread = threading.Thread(
            target=lambda: served.append(disk.batch.serve(made, collect=True))
        )
        thread.start()
        for number in (1, 2):
            wait_until(lambda: disk.driver.pop() is not None, "the request is served")
            disk.add(number, Request(VIRTIO_BLK_T_IN, 0, [512]))
            disk.driver.publish()
        wait_until(lambda: disk.driver.pop() is not None, "the last request is served")
        os.eventfd_write(event, 1)
        thread.join(TIMEOUT)
    assert served == [Served.ALL]


def test_a_ring_is_waited_for_if_its_driver_is_fast(disk: Disk, event: int, call: int) -> None:
    with select.epoll() as events:
        events.register(event, select.EPOLLIN)
        os.eventfd_write(event, 1)  # nothing is waited for here
        waits = []
        for gap in (0, 0, 0, 0, 0, 10**9):
            disk.add(0, Request(VIRTIO_BLK_T_IN, 0, [512]))
            disk.driver.publish()
            made = disk.queue.batch()
            assert made is not None
            made.begin(losses[0], None, log_buffers=False, call=call, events=events.fileno())
            if made.pointer.empty_since:
                made.pointer.empty_since = time.monotonic_ns() - gap
            disk.batch.serve(made, collect=True)
            assert disk.driver.pop() is not None
            waits.append(made.pointer.wait_ns)
    assert waits == [0, 4000, 8000, 16000, 32000, 0]


requests = st.builds(
    Request,
    st.sampled_from([VIRTIO_BLK_T_IN] * 4 + [VIRTIO_BLK_T_OUT] * 4 + [VIRTIO_BLK_T_FLUSH, 99]),
    st.one_of(st.integers(0, SECTORS), st.sampled_from([1 << 55, (1 << 64) - 1])),
    st.lists(st.sampled_from([512] * 4 + [1024, 4096, 1, 511, 513]), max_size=3),
    st.booleans(),
    st.sampled_from([1] * 8 + [2]),
    st.sampled_from([16] * 8 + [15, 17]),
)


class LoneRing:
    """A ring of a device without a server: what a device calls."""

    log_mark = None

    def __init__(self, queue: DeviceQueue) -> None:
        self.queue = queue
        self.in_flight = self.interrupts = 0
        self.losses = losses[0]

    def check_memory(self) -> None:
        pass

    def interrupt(self) -> None:
        self.interrupts += 1

    def lend(self) -> batch.Batch | None:
        made = self.queue.batch()
        if made is not None:
            made.begin(self.losses, None, log_buffers=False)
        return made

    def begin_async(self, count: int = 1) -> None:
        self.in_flight += count

    def end_async(self, count: int = 1) -> None:
        self.in_flight -= count

    def completion(self, callback: Callable[[], None]) -> Callable[[], None]:
        return callback

    def post_completion(self, callback: Callable[[], None]) -> None:
        callback()

    def abort(self, error: Exception, count: int = 1) -> None:
        raise AssertionError(f"{count} requests have failed") from error

    def complete(self, head: int, written: int) -> None:
        self.queue.push(head, written)
        self.queue.publish()
        self.end_async()


@settings(deadline=None, max_examples=100)
@given(wanted=st.lists(requests, max_size=14), event_idx=st.booleans(), waits=st.booleans())
def test_python_does_the_same(
    tmp_path_factory: pytest.TempPathFactory, wanted: list[Request], event_idx: bool, waits: bool
) -> None:
    """Memory, image and counters are the same, whether writes may wait or not."""
    folder = tmp_path_factory.mktemp("disks")
    outcomes = []
    for compiled in (True, False):
        with ExitStack() as stack, batches(enabled=compiled):
            disk = Disk(folder, str(compiled), stack, event_idx=event_idx)
            disk.image.write_flags = None if waits else 0
            for number, request in enumerate(wanted):
                disk.add(number, request)
            disk.driver.publish()
            outcomes.append((_serve(disk), *disk.outcome()))
    assert outcomes[0] == outcomes[1]


def _serve(disk: Disk) -> str:
    """Serve all requests; what is wrong with the ring, or ""."""
    loop = Loop("disk")
    pool = cast("IoPool", InlinePool())
    device = BlkDevice("disk", loop, disk.image, 1, pool, counters=disk.counters)
    lone = LoneRing(disk.queue)
    wrong = ""
    more = True
    while more:
        try:
            more = device.process(cast("Ring", lone), disk.queue)
        except FrontendError as error:
            wrong, more = error.text, False
        loop.again(lambda: None)
        loop._turn()
    assert lone.in_flight == 0
    loop.close()
    return wrong
