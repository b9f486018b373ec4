"""Eventfds: one is signalled or read, or hundreds are created, signalled, drained, closed at once.

Both ends of a connection have the same open file description, so a peer can fill the counter and
clear O_NONBLOCK at any time. `signal`, `take` and the batches never wait all the same
(docs/explanation/peers-descriptors.md).

There are two implementations of a batch. The compiled one needs one call, and one release of the
interpreter lock, for a batch; the one with the standard library makes a call for each descriptor,
and relies on O_NONBLOCK where it signals.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import TYPE_CHECKING, Protocol

from vhost_user import native

if TYPE_CHECKING:
    from collections.abc import Sequence

FLAGS = os.EFD_NONBLOCK | os.EFD_CLOEXEC


def python_signal(fd: int) -> None:
    """`signal` with the standard library: it may wait if a peer clears O_NONBLOCK meanwhile."""
    try:
        os.set_blocking(fd, False)
        os.eventfd_write(fd, 1)
    except BlockingIOError:
        pass  # the counter is full: it is readable, so nothing is lost


def python_take(fd: int) -> int:
    """`take` with the standard library."""
    value = bytearray(8)
    try:
        done = os.preadv(fd, [value], -1, os.RWF_NOWAIT)
    except BlockingIOError:
        return 0
    if not done:
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
    return int.from_bytes(value, sys.byteorder) or 1


def _native_signal(fd: int) -> None:
    error = native.lib.vu_signal(fd)
    if error:
        raise OSError(error, os.strerror(error))


def _native_take(fd: int) -> int:
    value: int = native.lib.vu_take(fd)
    if value < 0:
        raise OSError(-value, os.strerror(-value))
    return value


def may_wait() -> bool:
    """Whether `signal` waits where a peer wants that: the system lacks what keeps it from it.

    It needs the compiled extension and a context for asynchronous I/O (io_setup(2)), of which a
    system has ``fs.aio-max-nr``. The first call makes the context, which later calls need.
    """
    return not native.available or bool(native.lib.vu_signal_waits())


#: ``signal(fd)`` adds 1 to an eventfd, or writes to a pipe or socket, which other systems use
#: instead. It never waits: a full counter counts as signalled. It raises `OSError` where the
#: descriptor cannot be signalled.
signal = _native_signal if native.available else python_signal
#: ``take(fd)`` reads and resets the counter of an eventfd; a pipe or a socket with bytes counts as
#: 1. It never waits: it returns 0 where nothing was signalled. It raises `OSError` where the
#: descriptor cannot be read; EPIPE means that its other end was closed.
take = _native_take if native.available else python_take


class PreparedEventfds(Protocol):
    """A batch that is used repeatedly."""

    def signal(self) -> None:
        """As `EventfdBatch.signal`."""

    def drain(self) -> list[int]:
        """As `EventfdBatch.drain`."""


class EventfdBatch(Protocol):
    """Operations on many eventfds at once.

    All descriptors of a batch are tried, whichever fail; then `OSError` of the first failure is
    raised.
    """

    def create(self, count: int) -> list[int]:
        """Create that many eventfds (non-blocking, close-on-exec), or none.

        Raises:
            OSError: usually EMFILE; none was created.
        """

    def signal(self, fds: Sequence[int]) -> None:
        """Add one to each; a full counter counts as signalled."""

    def drain(self, fds: Sequence[int]) -> list[int]:
        """Read and reset the counters, in the order of `fds`; 0 where nothing was signalled."""

    def close(self, fds: Sequence[int]) -> None:
        """Close all."""

    def prepare(self, fds: Sequence[int]) -> PreparedEventfds:
        """Make repeated use of the same descriptors cheaper. They stay the caller's."""


def _check(error: int) -> None:
    if error:
        raise OSError(error, os.strerror(error))


class _NativePrepared:
    __slots__ = ("_count", "_fds", "_values")

    def __init__(self, fds: Sequence[int]) -> None:
        self._count = len(fds)
        self._fds = native.ffi.new("int[]", fds)
        self._values = native.ffi.new("uint64_t[]", self._count)

    def signal(self) -> None:
        error = native.lib.vu_eventfd_signal(self._fds, self._count)
        if error:
            _check(error)

    def drain(self) -> list[int]:
        error = native.lib.vu_eventfd_drain(self._fds, self._count, self._values)
        if error:
            _check(error)
        return native.ffi.unpack(self._values, self._count)  # type: ignore[no-any-return]


class NativeEventfds:
    """`EventfdBatch` by the compiled extension."""

    def __init__(self) -> None:
        native.require()

    def create(self, count: int) -> list[int]:
        """See `EventfdBatch.create`."""
        fds = native.ffi.new("int[]", count)
        _check(native.lib.vu_eventfd_create(count, FLAGS, fds))
        return native.ffi.unpack(fds, count) if count else []

    def signal(self, fds: Sequence[int]) -> None:
        """See `EventfdBatch.signal`."""
        _check(native.lib.vu_eventfd_signal(fds, len(fds)))

    def drain(self, fds: Sequence[int]) -> list[int]:
        """See `EventfdBatch.drain`."""
        return _NativePrepared(fds).drain() if fds else []

    def close(self, fds: Sequence[int]) -> None:
        """See `EventfdBatch.close`."""
        _check(native.lib.vu_close(fds, len(fds)))

    def prepare(self, fds: Sequence[int]) -> PreparedEventfds:
        """See `EventfdBatch.prepare`."""
        return _NativePrepared(fds)


class _PythonPrepared:
    __slots__ = ("_batch", "_fds")

    def __init__(self, batch: PythonEventfds, fds: Sequence[int]) -> None:
        self._batch = batch
        self._fds = tuple(fds)

    def signal(self) -> None:
        self._batch.signal(self._fds)

    def drain(self) -> list[int]:
        return self._batch.drain(self._fds)


class PythonEventfds:
    """`EventfdBatch` by the standard library."""

    def create(self, count: int) -> list[int]:
        """See `EventfdBatch.create`."""
        fds: list[int] = []
        try:
            fds.extend(os.eventfd(0, FLAGS) for _ in range(count))
        except OSError:
            self.close(fds)
            raise
        return fds

    def signal(self, fds: Sequence[int]) -> None:
        """See `EventfdBatch.signal`."""
        first = 0
        for fd in fds:
            try:
                python_signal(fd)
            except OSError as error:
                first = first or error.errno or errno.EIO
        _check(first)

    def drain(self, fds: Sequence[int]) -> list[int]:
        """See `EventfdBatch.drain`."""
        first = 0
        values = []
        for fd in fds:
            value = 0
            try:
                value = python_take(fd)
            except OSError as error:
                first = first or error.errno or errno.EIO
            values.append(value)
        _check(first)
        return values

    def close(self, fds: Sequence[int]) -> None:
        """See `EventfdBatch.close`."""
        first = 0
        for fd in fds:
            try:
                os.close(fd)
            except OSError as error:
                first = first or error.errno or errno.EIO
        _check(first)

    def prepare(self, fds: Sequence[int]) -> PreparedEventfds:
        """See `EventfdBatch.prepare`."""
        return _PythonPrepared(self, fds)


def default() -> EventfdBatch:
    """The compiled implementation if it was built, else the one with the standard library."""
    return NativeEventfds() if native.available else PythonEventfds()
