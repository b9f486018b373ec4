"""A bound for what front-ends and guests can have a program print.

Each refused message is a line, and so is each failed ring: without a bound a front-end that repeats
one would fill the disk that standard error goes to.
"""

from __future__ import annotations

import logging
import re
import time
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

#: Lines of one device that are printed at once.
BURST = 10
#: Seconds after which one more line is printed.
SECONDS = 10.0
#: A line begins with the name of its device.
_NAME = re.compile(r"[^:,;]*")


class _Left(NamedTuple):
    """How many lines of a device could be printed at a moment, and whether one was left out."""

    lines: float
    at: float
    short: bool = False


class LineLimit(logging.Filter):
    """Passes `BURST` lines of each device, and one more each `SECONDS`.

    The first line that is left out is replaced by one that reports this.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._left: dict[str, _Left] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is printed."""
        match = _NAME.match(record.getMessage())
        name = match[0] if match is not None else ""
        now = self._clock()
        before = self._left.get(name, _Left(BURST, now))
        lines = min(BURST, before.lines + (now - before.at) / SECONDS)
        if lines >= 1:
            self._left[name] = _Left(lines - 1, now)
            return True
        self._left[name] = _Left(lines, now, short=True)
        if before.short:
            return False
        record.msg = "%s: more lines than one in %g s are left out"
        record.args = (name, SECONDS)
        return True
