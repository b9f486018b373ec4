"""A virtio block device on a file (virtio 1.3, section 5.2).

Reads that hit the page cache are served in the loop's thread, directly to guest memory, and so are
writes where the file system can promise not to wait (RWF_NOWAIT). Where it cannot, writes are made
by the loop's thread at the end of its turn, and another thread takes the loop over if one blocks
(`backends.loop`). All other calls go to the device's own threads, and complete through the loop: a
disk that hangs delays no other device.

Requests of the usual kind are served by a compiled function (`backends.disk_batch`), many in one
call; the functions here serve all kinds, and are the same without it.
"""

from __future__ import annotations

import errno
import logging
import time
from functools import partial
from os import preadv, pwritev
from typing import TYPE_CHECKING

from backends import stats
from backends.blocking_call import BlockingCall
from backends.disk_batch import DiskBatch, Writes
from backends.image import IOV_MAX, Image, ImageError
from backends.limits import (
    DISK_REQUEST_BYTES,
    INLINE_BYTES,
    MAX_SEGMENTS,
    SLOW_NS,
)
from backends.ring_service import Served, serve_ring
from backends.virtio_device import VirtioDevice
from vhost_user.errors import FrontendError
from vhost_user.features import ProtocolFeature
from vhost_user.mapping import GONE, look
from vhost_user.virtio.blk import (
    REQUEST_HEADER,
    SECTOR_SIZE,
    SEGMENT,
    VIRTIO_BLK_F_BLK_SIZE,
    VIRTIO_BLK_F_DISCARD,
    VIRTIO_BLK_F_FLUSH,
    VIRTIO_BLK_F_MQ,
    VIRTIO_BLK_F_RO,
    VIRTIO_BLK_F_SEG_MAX,
    VIRTIO_BLK_F_WRITE_ZEROES,
    VIRTIO_BLK_ID_BYTES,
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
    BlkConfig,
)
from vhost_user.virtio.ring_limits import BLK

if TYPE_CHECKING:
    from collections.abc import Callable

    from backends.io_pool import IoPool
    from backends.loop import Loop
    from backends.ring import Ring
    from vhost_user.virtqueue import Chain, DeviceQueue

SEG_MAX = 126
MAX_SEGMENT_SECTORS = 1 << 21

_unpack_header = REQUEST_HEADER.unpack_from
log = logging.getLogger("backends")


class RequestError(Exception):
    """The request completes with this status instead of being served."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class BlkDevice(VirtioDevice):
    """A disk.

    Args:
        name: what errors and tables call it.
        loop: the loop that serves it.
        image: the file behind it, which it owns.
        rings: how many request queues it has.
        pool: threads for calls that may block.
        serial: the reply to GET_ID, cut at 20 bytes.
        counters: its slots in the statistics.
    """

    backend_type = "block"
    ring_limits = BLK

    def __init__(
        self,
        name: str,
        loop: Loop,
        image: Image,
        rings: int,
        pool: IoPool,
        *,
        serial: str = "",
        counters: memoryview | None = None,
    ) -> None:
        super().__init__(name, loop, rings, counters)
        self._image = image
        self._pool = pool
        # Until then writes block, and are made by the threads of the pool.
        self._slow_until = 0
        self._batch = DiskBatch(image, self.counters)
        self._serial = serial.encode()[:VIRTIO_BLK_ID_BYTES].ljust(VIRTIO_BLK_ID_BYTES, b"\0")
        self.protocol_features |= (
            ProtocolFeature.CONFIG | ProtocolFeature.INFLIGHT_SHMFD | ProtocolFeature.BACKEND_REQ
        )
        offered = [VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_MQ]
        offered += (
            [VIRTIO_BLK_F_RO]
            if image.read_only
            else [VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_WRITE_ZEROES]
        )
        self.features |= sum(1 << bit for bit in offered)
        self._slow: dict[int, Callable[[Ring, Chain, list[memoryview]], None]] = {
            VIRTIO_BLK_T_FLUSH: self._flush,
            VIRTIO_BLK_T_GET_ID: self._get_id,
            VIRTIO_BLK_T_DISCARD: partial(self._segments, VIRTIO_BLK_T_DISCARD),
            VIRTIO_BLK_T_WRITE_ZEROES: partial(self._segments, VIRTIO_BLK_T_WRITE_ZEROES),
        }

    def config(self) -> bytes:
        """See `VirtioDevice.config`."""
        return BlkConfig(
            capacity=self._image.size // SECTOR_SIZE,
            size_max=0,
            seg_max=SEG_MAX,
            blk_size=SECTOR_SIZE,
            writeback=1,
            num_queues=self.num_rings,
            max_discard_sectors=MAX_SEGMENT_SECTORS,
            max_discard_seg=MAX_SEGMENTS,
            discard_sector_alignment=1,
            max_write_zeroes_sectors=MAX_SEGMENT_SECTORS,
            max_write_zeroes_seg=MAX_SEGMENTS,
            write_zeroes_may_unmap=1,
        ).pack()

    def refresh(self) -> bool:
        """Read the image's size again; True when the capacity has changed."""
        try:
            return self._image.refresh()
        except ImageError as error:
            log.warning("%s: the capacity is unchanged: %s", self.name, error)
            return False

    def acquire(self) -> str | None:
        """Lock the image, so that two back-ends never have started rings on it."""
        return self._image.lock()

    def release(self) -> None:
        """Unlock the image."""
        self._image.unlock()

    def close(self) -> None:
        """Close the image."""
        self._image.close()

    def process(self, ring: Ring, queue: DeviceQueue) -> bool:
        """Serve requests; see `VirtioDevice.process`."""
        return serve_ring(ring, queue, self._serve_batch, self._serve)

    def _serve_batch(self, ring: Ring) -> Served:
        """By the compiled function."""
        batch = ring.lend()
        if batch is None:
            return Served.UNUSUAL
        served = self._batch.serve(batch, collect=not self._is_slow)
        if self._batch.notify:
            ring.interrupt()
        writes = self._batch.writes
        if writes is not None:
            ring.begin_async(writes.length)
            try:
                work = partial(writes.make, self._image.fd, ring.losses)
                self._call_blocking(ring, work, partial(self._written, ring, writes), writes.length)
            except Exception as error:  # noqa: BLE001  whatever is raised, the requests have to end
                ring.abort(error, writes.length)
        return served

    # A request

    def _serve(self, ring: Ring, queue: DeviceQueue, chain: Chain) -> None:
        head, readable, writable, _ = chain
        if not readable or not writable:
            raise FrontendError(f"chain {head} has no header, or no room for a status")
        header = readable[0]
        if len(header) != REQUEST_HEADER.size:
            readable = _split_header(head, readable)
            header = readable[0]
        kind, _, sector = _unpack_header(header)
        counters = self.counters
        counters[stats.REQUESTS] += 1
        try:
            if kind == VIRTIO_BLK_T_IN:
                written = self._read(ring, chain, sector)
            elif kind == VIRTIO_BLK_T_OUT:
                written = self._write(ring, chain, readable[1:], sector)
            else:
                handler = self._slow.get(kind)
                if handler is None:
                    raise RequestError(VIRTIO_BLK_S_UNSUPP)
                handler(ring, chain, readable[1:])
                return
        except RequestError as error:
            self._finish(ring, queue, chain, error.status, 1)
        else:
            if written:
                self._finish(ring, queue, chain, VIRTIO_BLK_S_OK, written)

    def _finish(
        self, ring: Ring, queue: DeviceQueue, chain: Chain, status: int, written: int
    ) -> None:
        self._set_status(ring, chain, status)
        queue.push(chain.head, written)

    def _set_status(self, ring: Ring, chain: Chain, status: int) -> None:
        chain.writable[-1][-1] = status
        if status:
            self.counters[stats.ERRORS] += 1
        mark = ring.log_mark
        if mark is not None:
            for gpa, length in chain.writable_extents:
                mark(gpa, length)

    def _check(self, sector: int, length: int) -> int:
        """The offset in the image, if the range is in it."""
        offset = sector * SECTOR_SIZE
        if (
            length % SECTOR_SIZE
            or length > DISK_REQUEST_BYTES
            or offset + length > self._image.size
        ):
            raise RequestError(VIRTIO_BLK_S_IOERR)
        return offset

    def _read(self, ring: Ring, chain: Chain, sector: int) -> int:
        buffers, length = _data_buffers(chain.writable)
        offset = self._check(sector, length)
        self.counters[stats.BYTES_READ] += length
        if not length:
            return 1
        image = self._image
        flags = image.read_flags
        if flags is not None and length <= INLINE_BYTES and len(buffers) <= IOV_MAX:
            try:
                if preadv(image.fd, buffers, offset, flags) == length:
                    return length + 1
            except BlockingIOError:
                pass  # not in the page cache
            except OSError as error:
                raise self._failed(ring, buffers, error) from None
        self._submit(ring, chain, partial(image.read, buffers, offset), length + 1)
        return 0

    def _write(self, ring: Ring, chain: Chain, buffers: list[memoryview], sector: int) -> int:
        length = sum(map(len, buffers))
        offset = self._check(sector, length)
        image = self._image
        if image.read_only:
            raise RequestError(VIRTIO_BLK_S_IOERR)
        self.counters[stats.BYTES_WRITTEN] += length
        if not length:
            return 1
        ring.check_memory()  # the request, and its addresses, may be zeroes of a lost page
        flags = image.write_flags
        if flags is not None and length <= INLINE_BYTES and len(buffers) <= IOV_MAX:
            try:
                if pwritev(image.fd, buffers, offset, flags) == length:
                    return 1
            except BlockingIOError:
                pass  # it would wait
            except OSError as error:
                if error.errno != errno.EOPNOTSUPP or not flags:
                    raise self._failed(ring, buffers, error) from None
                image.write_flags = None  # the file system cannot promise not to wait
        work = partial(image.write, buffers, offset)
        if image.write_flags is None and length <= INLINE_BYTES:
            self._write_in_loop(ring, chain, work)
        else:
            self._submit(ring, chain, work, 1)
        return 0

    @staticmethod
    def _failed(ring: Ring, buffers: list[memoryview], error: OSError) -> RequestError:
        """What a call on the image has raised; `LostMemoryError` if it was for want of memory."""
        if error.errno == GONE:
            look(buffers)
            ring.check_memory()
        return RequestError(VIRTIO_BLK_S_IOERR)

    def _flush(self, ring: Ring, chain: Chain, data: list[memoryview]) -> None:
        del data
        self.counters[stats.FLUSHES] += 1
        self._submit(ring, chain, self._image.flush, 1)

    def _get_id(self, ring: Ring, chain: Chain, data: list[memoryview]) -> None:
        del data
        buffers, length = _data_buffers(chain.writable)
        if length < VIRTIO_BLK_ID_BYTES:
            raise RequestError(VIRTIO_BLK_S_IOERR)
        at = 0
        for buffer in buffers:
            part = self._serial[at : at + len(buffer)]
            buffer[: len(part)] = part
            at += len(part)
        self._complete_now(ring, chain, VIRTIO_BLK_S_OK, VIRTIO_BLK_ID_BYTES + 1)

    def _segments(self, kind: int, ring: Ring, chain: Chain, data: list[memoryview]) -> None:
        if self._image.read_only:
            raise RequestError(VIRTIO_BLK_S_IOERR)
        count, rest = divmod(sum(map(len, data)), SEGMENT.size)
        if rest or not 1 <= count <= MAX_SEGMENTS:
            raise RequestError(VIRTIO_BLK_S_IOERR)
        allowed = VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP if kind == VIRTIO_BLK_T_WRITE_ZEROES else 0
        work: list[Callable[[], None]] = []
        for sector, sectors, flags in SEGMENT.iter_unpack(b"".join(data)):
            if flags & ~allowed:
                raise RequestError(VIRTIO_BLK_S_UNSUPP)
            if sectors > MAX_SEGMENT_SECTORS:
                raise RequestError(VIRTIO_BLK_S_IOERR)
            length = sectors * SECTOR_SIZE
            offset = self._check(sector, length)
            if not length:
                continue
            if kind == VIRTIO_BLK_T_DISCARD:
                work.append(partial(self._image.discard, offset, length))
            else:
                unmap = bool(flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP)
                work.append(partial(self._image.write_zeroes, offset, length, unmap=unmap))
        self._submit(ring, chain, partial(_run_all, work), 1)

    # Calls that may block

    def _submit(self, ring: Ring, chain: Chain, work: Callable[[], None], written: int) -> None:
        ring.begin_async()
        lost = partial(self._lost, ring)
        try:
            self._pool.submit(partial(self._work, ring, chain, work, written), lost)
        except Exception as error:  # noqa: BLE001  whatever is raised, the request has to end
            ring.abort(error)

    def _work(self, ring: Ring, chain: Chain, work: Callable[[], None], written: int) -> None:
        """In a thread of the pool."""
        status = self._attempt(ring, chain, work)
        if status:
            written = 1
        ring.post_completion(partial(self._done, ring, chain, status, written))

    @staticmethod
    def _attempt(ring: Ring, chain: Chain, work: Callable[[], None]) -> int:
        """In any thread: the status of the request."""
        ring.check_memory()  # it may be gone since the request was taken
        try:
            work()
        except OSError as error:
            if error.errno == GONE:
                look(chain.writable + chain.readable)
            return VIRTIO_BLK_S_IOERR
        return VIRTIO_BLK_S_OK

    @staticmethod
    def _lost(ring: Ring, error: Exception) -> None:
        """In a thread of the pool, which could not do its work."""
        ring.post_completion(partial(ring.abort, error))

    def _done(self, ring: Ring, chain: Chain, status: int, written: int) -> None:
        try:
            self._set_status(ring, chain, status)
        except Exception as error:  # noqa: BLE001  whatever is raised, the request has to end
            ring.abort(error)
        else:
            ring.complete(chain.head, written)

    # Writes by the loop's thread, where the file system cannot promise not to wait

    @property
    def _is_slow(self) -> bool:
        """A write has blocked, not long ago."""
        return self._slow_until > 0 and time.monotonic_ns() < self._slow_until

    def _write_in_loop(self, ring: Ring, chain: Chain, work: Callable[[], None]) -> None:
        status = VIRTIO_BLK_S_OK

        def write() -> None:
            nonlocal status
            status = self._attempt(ring, chain, work)

        ring.begin_async()
        try:
            self._call_blocking(ring, write, lambda: self._done(ring, chain, status, 1), 1)
        except Exception as error:  # noqa: BLE001  whatever is raised, the request has to end
            ring.abort(error)

    def _call_blocking(
        self, ring: Ring, work: Callable[[], None], done: Callable[[], None], count: int
    ) -> None:
        """Have a call made for as many requests that were popped."""
        failed = partial(ring.abort, count=count)
        call = BlockingCall(work, done, failed, self._pool, self._blocked)
        if self._is_slow:
            call.make_in_pool(ring.post_completion)
        else:
            self.loop.call_blocking(call)

    def _blocked(self) -> None:
        self._slow_until = time.monotonic_ns() + SLOW_NS

    def _written(self, ring: Ring, writes: Writes) -> None:
        """Complete what `_serve_batch` has taken from the ring."""
        batch = ring.lend()
        try:
            if batch is not None:
                notify, failures = writes.complete(batch)
                batch.end()
                self.counters[stats.ERRORS] += failures
                if notify:
                    ring.interrupt()
            else:
                self._written_one_by_one(ring, writes)
            self._batch.release(writes)
        except Exception as error:  # noqa: BLE001  whatever is raised, the requests have to end
            ring.abort(error, count=writes.length)
        else:
            ring.end_async(writes.length)

    def _written_one_by_one(self, ring: Ring, writes: Writes) -> None:
        """The same without the compiled function: the ring was set up anew meanwhile."""
        queue, mark = ring.queue, ring.log_mark
        for write in writes.all:
            write.status[0] = VIRTIO_BLK_S_IOERR if write.error else VIRTIO_BLK_S_OK
            self.counters[stats.ERRORS] += bool(write.error)
            if mark is not None:
                mark(write.status_gpa, 1)
            if queue is not None:
                queue.push(write.head, 1)
        if queue is not None and queue.publish():
            ring.interrupt()

    def _complete_now(self, ring: Ring, chain: Chain, status: int, written: int) -> None:
        self._set_status(ring, chain, status)
        if ring.queue is not None:
            ring.queue.push(chain.head, written)


def _run_all(work: list[Callable[[], None]]) -> None:
    for step in work:
        step()


def _data_buffers(writable: list[memoryview]) -> tuple[list[memoryview], int]:
    """The writable buffers without the status byte, and their length together."""
    last = writable[-1]
    if len(last) == 1:
        if len(writable) == 2:
            only = writable[0]
            return [only], len(only)
        buffers = writable[:-1]
    else:
        buffers = [*writable[:-1], last[:-1]]
    return buffers, sum(map(len, buffers))


def _split_header(head: int, readable: list[memoryview]) -> list[memoryview]:
    """The same bytes, with the header alone in the first piece.

    Drivers may divide a request into buffers as they like (virtio 1.3, 2.7.4.1).
    """
    taken = b""
    rest = list(readable)
    while rest and len(taken) < REQUEST_HEADER.size:
        first = rest.pop(0)
        need = REQUEST_HEADER.size - len(taken)
        taken += bytes(first[:need])
        if len(first) > need:
            rest.insert(0, first[need:])
    if len(taken) < REQUEST_HEADER.size:
        raise FrontendError(f"chain {head} is shorter than a request's header")
    return [memoryview(taken), *rest]
