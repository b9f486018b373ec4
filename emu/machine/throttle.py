"""Keeping a guest from running for a share of its time, so that it writes less memory."""

from __future__ import annotations

#: A vCPU runs for a part of each period and stays out for the rest; nanoseconds.
PERIOD_NS = 10_000_000
#: A guest that never ran would complete nothing.
MAX_PERCENT = 99


class Throttle:
    """When vCPUs stay out of guest code. They ask before they enter it.

    Attributes:
        percent: of each period that they stay out, 0 to 99; any thread may set it.
    """

    __slots__ = ("percent",)

    def __init__(self) -> None:
        self.percent = 0

    def stay_out_ns(self, now_ns: int) -> int:
        """Nanoseconds from now until a vCPU may go in; 0: now."""
        into = now_ns % PERIOD_NS
        running = PERIOD_NS * (100 - self.percent) // 100
        return PERIOD_NS - into if into >= running else 0
