"""Whether the terminal that a program was started from has been closed."""

from __future__ import annotations

import os
import signal
from contextlib import suppress


class Terminal:
    """The controlling terminal of the program, if there was one when this object was made.

    A program that was started with SIGHUP ignored (nohup) does not depend on its terminal. It is
    held open, because a program in a sandbox cannot open it later.
    """

    def __init__(self) -> None:
        self._fd = -1
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            with suppress(OSError):  # there is none
                flags = os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC
                self._fd = os.open("/dev/tty", flags)

    def closed(self) -> bool:
        """It has been closed since, or its session has ended."""
        if self._fd < 0:
            return False
        try:
            # Fails when the terminal has hung up, or does not control this process any more.
            os.tcgetpgrp(self._fd)
        except OSError:
            return True
        return False

    def close(self) -> None:
        """Close the descriptor."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
