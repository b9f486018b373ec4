"""A source of missing pages for tests of postcopy: the front-end's end of a userfaultfd."""
# ruff: noqa: D102 - the names say what they are about

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import struct
import threading
from typing import TYPE_CHECKING

import pytest

from backends.image import FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE
from tests.timeouts import TIMEOUT
from vhost_user import postcopy
from vhost_user.memory import PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable

#: linux/userfaultfd.h: struct uffd_msg (event, address), and UFFDIO_WAKE.
_MESSAGE = struct.Struct("<B15xQ8x")
_PAGEFAULT = 0x12
_WAKE = 0x8010AA02

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long)

needs_userfaultfd = pytest.mark.skipif(
    not postcopy.possible(), reason="no userfaultfd for this user, or no compiled extension"
)


class Pages:
    """Copies pages on demand, in a thread of its own.

    Args:
        fd: the userfaultfd.
        bring: copies the page at this address of the back-end.

    Attributes:
        asked: the addresses, in order.
    """

    def __init__(self, fd: int, bring: Callable[[int], None]) -> None:
        self.asked: list[int] = []
        self._fd = fd
        self._bring = bring
        self._end = os.eventfd(0)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        poll.register(self._end, select.POLLIN)
        while all(fd != self._end for fd, _ in poll.poll()):
            event, address = _MESSAGE.unpack(os.read(self._fd, _MESSAGE.size))
            assert event == _PAGEFAULT
            address -= address % PAGE_SIZE
            self.asked.append(address)
            self._bring(address)
            fcntl.ioctl(self._fd, _WAKE, struct.pack("<QQ", address, PAGE_SIZE))

    def close(self) -> None:
        os.eventfd_write(self._end, 1)
        self._thread.join(TIMEOUT)
        assert not self._thread.is_alive()
        os.close(self._end)


def await_fault(fd: int) -> None:
    """Return when a thread waits for a page; copy none."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    assert poll.poll(5000), "no thread waits for a page"


def punch_holes(fd: int) -> None:
    """Remove all pages of a file, so that each is missing from now on."""
    mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
    size = os.fstat(fd).st_size
    assert _libc.fallocate(fd, mode, 0, size) == 0, os.strerror(ctypes.get_errno())
