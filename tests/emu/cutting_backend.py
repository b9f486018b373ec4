"""The back-end of a disk that tries to cut off the guest memory that it has received.

It serves the disk all the same. The result of each attempt is appended to the file of ``CUT_LOG``.
"""

from __future__ import annotations

import errno
import os
import threading
from typing import TYPE_CHECKING

from backends import blk
from vhost_user import memory

if TYPE_CHECKING:
    from vhost_user.memory import MappedRegion
    from vhost_user.payloads import MemoryRegion

#: Opened first: the program serves in a sandbox.
LOG = os.open(os.environ["CUT_LOG"], os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC)
#: Seconds until the second attempt, when requests are being served.
LATER = 0.05
_map_region = memory.map_region


def cut(fd: int) -> None:
    """Make the file as short as possible."""
    try:
        os.ftruncate(fd, 0)
        result = "cut"
    except OSError as error:
        result = errno.errorcode[error.errno or 0]
    os.write(LOG, f"{result}\n".encode())


def map_region(region: MemoryRegion, fd: int) -> MappedRegion:
    """Map a region, and cut it off at once and once more later."""
    mapped = _map_region(region, fd)
    cut(fd)
    threading.Timer(LATER, cut, [os.dup(fd)]).start()
    return mapped


if __name__ == "__main__":
    memory.map_region = map_region
    blk.main()
