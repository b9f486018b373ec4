"""Operations that the signals that end a program must not interrupt.

Python raises KeyboardInterrupt between any two instructions: a file that was just created is then
never removed, and in a callback of the import system the exception is printed and lost.
"""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Signals that end a program.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


@contextmanager
def deferred_signals() -> Iterator[None]:
    """Deliver `SIGNALS` at the end of the ``with`` block, in a process of one thread."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
