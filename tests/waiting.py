"""Waiting for what has no event, and looking at processes."""

from __future__ import annotations

import gc
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from tests.timeouts import TIMEOUT
from vhost_user import eventfd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

#: Seconds between two looks.
_INTERVAL = 0.002


def wait_until(condition: Callable[[], object], what: str = "the condition holds") -> None:
    """Return when a condition holds of memory, of a file, or of another process.

    Args:
        condition: is called again and again; it may assert that it can still come to hold.
        what: it stands for, for the error.
    """
    end = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < end, f"not within {TIMEOUT:g} s: {what}"
        time.sleep(_INTERVAL)


def running(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Those that have not ended.

    One that has ended is a zombie until its parent asks for its status: of an orphan that is the
    first process of the machine, which may take its time.
    """
    return [process for process in processes if _runs(process)]


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def open_fds() -> set[int]:
    """The descriptors of this process, after garbage was collected.

    Two of them are compared as sets, with ``<=``: what earlier tests have left to other threads may
    be closed in between. The descriptor that the first signal of a process opens, and keeps, is in
    all of them.
    """
    eventfd.may_wait()
    gc.collect()
    listed = [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]
    return {fd for fd in listed if _is_open(fd)}  # without that of the listing


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True
