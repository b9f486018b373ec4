"""Waiting for a few descriptors, to the microsecond, whatever their numbers are.

`select.select` refuses descriptors from 1024 on (FD_SETSIZE), which a program with some hundred
devices reaches; `select.poll` and `select.epoll` round their time-outs up to milliseconds. ppoll
does neither, and the standard library does not have it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from _typeshed import FileDescriptorLike

_libc = ctypes.CDLL(None, use_errno=True)


class _PollFd(ctypes.Structure):
    _fields_ = [("fd", ctypes.c_int), ("events", ctypes.c_short), ("revents", ctypes.c_short)]


class _Timespec(ctypes.Structure):
    _fields_ = [("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long)]


def readable(
    descriptors: Sequence[FileDescriptorLike], timeout: float | None = None
) -> list[FileDescriptorLike]:
    """Wait until one of them can be read, is at its end, or has failed.

    Args:
        descriptors: numbers, or objects with ``fileno()``.
        timeout: in seconds; None waits without a limit, 0 does not wait.

    Returns:
        Those that are ready, in the order given; none when the time is over.

    Raises:
        OSError: one is not open (EBADF).
    """
    return _wait(descriptors, select.POLLIN, timeout)


def writable(
    descriptors: Sequence[FileDescriptorLike], timeout: float | None = None
) -> list[FileDescriptorLike]:
    """Wait until one of them can be written, or has failed; see `readable`.

    Raises:
        OSError: one is not open (EBADF).
    """
    return _wait(descriptors, select.POLLOUT, timeout)


def _wait(
    descriptors: Sequence[FileDescriptorLike], events: int, timeout: float | None
) -> list[FileDescriptorLike]:
    numbers = [one if isinstance(one, int) else one.fileno() for one in descriptors]
    if min(numbers, default=0) < 0:  # of a closed socket: ppoll would ignore it, perhaps for ever
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    polled = (_PollFd * len(numbers))(*(_PollFd(number, events, 0) for number in numbers))
    deadline = None if timeout is None else time.monotonic_ns() + int(max(0.0, timeout) * 1e9)
    while True:
        limit = None
        if deadline is not None:
            left = max(0, deadline - time.monotonic_ns())
            limit = ctypes.byref(_Timespec(*divmod(left, 1_000_000_000)))
        if _libc.ppoll(polled, ctypes.c_ulong(len(numbers)), limit, None) >= 0:
            break
        number = ctypes.get_errno()
        if number != errno.EINTR:  # Python's handlers run before the next turn
            raise OSError(number, os.strerror(number))
    if any(entry.revents & select.POLLNVAL for entry in polled):
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    return [one for one, entry in zip(descriptors, polled, strict=True) if entry.revents]
