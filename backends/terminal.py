"""Whether the terminal that a program was started from has been closed."""

from __future__ import annotations

import os
import signal


class Terminal:
    """The controlling terminal of the program, if there was one when this object was made.

    A program that was started with SIGHUP ignored (nohup) does not depend on its terminal.
    """

    def __init__(self) -> None:
        self._needed = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN and _has_one()

    def closed(self) -> bool:
        """It has been closed since, or its session has ended."""
        return self._needed and not _has_one()


def _has_one() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError:
        return False
    return True
