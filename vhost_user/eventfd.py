"""Batches of eventfds: hundreds are created, signalled, drained and closed in one call.

There are two implementations. The compiled one needs one call, and one release of the interpreter
lock, for a batch; the one with the standard library makes a call for each descriptor.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Protocol

from vhost_user import native

if TYPE_CHECKING:
    from collections.abc import Sequence

FLAGS = os.EFD_NONBLOCK | os.EFD_CLOEXEC


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
                os.eventfd_write(fd, 1)
            except BlockingIOError:
                pass  # the counter is full: it is readable, so nothing is lost
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
                value = os.eventfd_read(fd)
            except BlockingIOError:
                pass  # nothing was signalled
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
