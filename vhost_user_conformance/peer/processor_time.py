"""How long the threads of a process have run and waited for a processor, and what they wait for."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import NamedTuple


class ThreadTime(NamedTuple):
    """Of one thread, in nanoseconds (Documentation/scheduler/sched-stats.rst of Linux).

    Attributes:
        ran: it has used a processor.
        waited: it was ready to run, and others ran.
    """

    ran: int
    waited: int


def per_thread(pid: int) -> list[ThreadTime]:
    """The times of the threads that have not ended.

    Returns:
        An empty list where the kernel does not count (CONFIG_SCHED_INFO).

    Raises:
        OSError: there is no such process.
    """
    found = []
    for thread in Path(f"/proc/{pid}/task").iterdir():
        try:
            ran, waited, _ = (thread / "schedstat").read_text().split()
        except OSError:
            continue  # it has ended meanwhile
        found.append(ThreadTime(int(ran), int(waited)))
    return found


def waits_for_disk(pid: int) -> bool:
    """Whether a thread is in an uninterruptible wait (state D of proc(5)), as for a file."""
    for thread in Path(f"/proc/{pid}/task").glob("*/stat"):
        with suppress(OSError):  # it has ended meanwhile
            # Its name may have any bytes.
            if thread.read_bytes().rpartition(b")")[2].split()[0] == b"D":
                return True
    return False
