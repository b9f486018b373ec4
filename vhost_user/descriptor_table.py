"""The table of a process's open files: its limit, and room in it before it is needed.

The kernel doubles the table when a descriptor does not fit any more. In a process with several
threads it then waits for an RCU grace period (expand_fdtable in fs/file.c), which takes 10 to 20 ms
on a host with busy processors: in the middle of a blackout, if the descriptors are those of rings.
"""

from __future__ import annotations

import fcntl
import os
import resource
from contextlib import suppress

#: Descriptors that `reserve` makes room for: those of thousands of rings. The table takes 8 bytes
#: for each.
ROOM = 16384


def raise_limit() -> int:
    """Raise the soft limit of this process's descriptors to the hard limit, and return that."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def reserve() -> None:
    """Make room for `ROOM` descriptors, or as many as the soft limit allows.

    Call it before the process has a second thread: later it takes as long as the kernel waits.
    """
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = ROOM - 1 if soft == resource.RLIM_INFINITY else min(ROOM, soft) - 1
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    try:
        # The table has this number then, and never becomes smaller.
        with suppress(OSError):  # all descriptors are in use: there is no room to make
            os.close(fcntl.fcntl(null, fcntl.F_DUPFD_CLOEXEC, highest))
    finally:
        os.close(null)
