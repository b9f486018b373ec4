"""Throttling: the guest does not run for a share of its time, and so writes less memory."""

from __future__ import annotations

#: Nanoseconds of a period: a vCPU runs at its start and stays out of guest code at its end.
PERIOD_NS = 10_000_000
#: At 100 the guest would not run at all.
MAX_PERCENT = 99


class Throttle:
    """Computes when vCPUs stay out of guest code. They read it before they enter guest code.

    Attributes:
        percent: the part of each period that they stay out, 0 to 99; any thread may set it.
    """

    __slots__ = ("percent",)

    def __init__(self) -> None:
        self.percent = 0

    def stay_out_ns(self, now_ns: int) -> int:
        """Nanoseconds from now until a vCPU may enter guest code; 0: now."""
        into = now_ns % PERIOD_NS
        running = PERIOD_NS * (100 - self.percent) // 100
        return PERIOD_NS - into if into >= running else 0
