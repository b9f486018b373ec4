"""Starting a program so that it does not outlive the suite."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Signals that end the suite.
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)
_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """In the child, before exec: the kernel sends it SIGTERM when the suite is killed.

    It takes no lock that another thread of the suite could hold at the fork.
    """
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


@contextlib.contextmanager
def signals_deferred() -> Iterator[None]:
    """Defer the signals that end the suite; one that arrives is raised again at the end.

    Code around a fork drops exceptions of signal handlers; or a program would be lost that has
    been started and is not recorded yet. Masking the signals does not help: another thread, such
    as that of the progress line, takes the signal, and Python runs the handler in the main thread.
    """
    arrived: list[int] = []
    handlers = {}
    if threading.current_thread() is threading.main_thread():  # handlers run in no other thread
        handlers = {each: signal.getsignal(each) for each in ENDING}
        handlers = {each: handler for each, handler in handlers.items() if callable(handler)}
    for each in handlers:
        signal.signal(each, lambda signum, _frame: arrived.append(signum))
    try:
        yield
    finally:
        for each, handler in handlers.items():
            signal.signal(each, handler)
        if arrived:
            signal.raise_signal(arrived[0])


def signal_session(leader: int, signum: int) -> bool:
    """Signal all processes of the session that this process leads; whether any of them runs.

    Processes that have ended and that their parent has not waited for do not count: the parent of a
    program that has forked and ended may be one that waits for none, as in many containers.
    """
    try:
        os.killpg(leader, signum)
    except (ProcessLookupError, PermissionError):
        return False
    return any(_runs_in(leader, each) for each in os.listdir("/proc") if each.isdecimal())  # noqa: PTH208


def _runs_in(leader: int, pid: str) -> bool:
    """Whether this process runs, and is in the group of this leader."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return False
    # The name of the program, in parentheses, may have spaces and parentheses itself.
    state, _parent, group = stat.rpartition(")")[2].split()[:3]
    return int(group) == leader and state not in "ZX"
