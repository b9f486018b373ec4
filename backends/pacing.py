"""Costs that a control thread is told to have, so that another back-end's pace can be shown.

A unit's figure is that of a whole round trip in lock-step, as it would be measured from the
front-end: what the front-end itself spends between a reply and its next request belongs to the
unit. So a short gap after the last reply is credited to the next unit, and an overshoot of the
sleep does not add up either.
"""

from __future__ import annotations

import time
from typing import NamedTuple

#: A longer gap is the front-end doing something else, and is credited to nobody.
LARGEST_CREDIT_NS = 1_000_000


class Costs(NamedTuple):
    """Nanoseconds per unit; 0 is the native pace."""

    get_vring_base: int = 0
    set_mem_table: int = 0


class Pacer:
    """The pace of one control thread."""

    def __init__(self) -> None:
        self._last_reply = 0

    def charge(self, arrival: int, cost: int) -> None:
        """Return when a unit of ``cost`` ns, whose request came at ``arrival``, may be answered."""
        begin = self._last_reply
        if arrival - begin > LARGEST_CREDIT_NS:
            begin = arrival
        due = begin + cost
        now = time.monotonic_ns()
        if now < due:
            time.sleep((due - now) / 1e9)
            now = time.monotonic_ns()
        self._last_reply = due if now - due < LARGEST_CREDIT_NS else now
