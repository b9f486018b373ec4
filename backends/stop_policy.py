"""How a back-end stops a ring: what GET_VRING_BASE waits for before it is answered.

Every policy waits for requests that are already being served, for their buffers are the
guest's. They differ in what else they do:

=========  =======================================================================
immediate  takes nothing more from the ring and answers as soon as nothing is in
           flight, which is at once for a device that serves requests as it takes
           them (passt does so)
drain      first serves what the driver has made available, then answers when
           nothing is in flight any more
tick       takes nothing more either, and looks only every millisecond whether
           something is still in flight, so a device takes a millisecond at the
           least (SPDK's session stop)
=========  =======================================================================

A stop time comes on top: the device is ready that long after its first ring was asked to stop,
whichever the policy.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

TICK_NS = 1_000_000
#: A request in flight that takes longer than this costs the device its connection.
DRAIN_LIMIT_NS = 4_000_000_000


class StopKind(enum.Enum):
    """What is waited for; see the module."""

    IMMEDIATE = "immediate"
    DRAIN = "drain"
    TICK = "tick"


class StopPolicy(NamedTuple):
    """A kind and a stop time in nanoseconds."""

    kind: StopKind = StopKind.IMMEDIATE
    stop_time: int = 0

    @property
    def instant(self) -> bool:
        """True when a ring with nothing in flight is answered for at once."""
        return self.kind is not StopKind.TICK and not self.stop_time

    def ready_at(self, begun: int) -> int:
        """When a device whose first ring was asked to stop at ``begun`` may answer."""
        ready = begun + self.stop_time
        return max(ready, begun + TICK_NS) if self.kind is StopKind.TICK else ready

    def next_look(self, begun: int, now: int) -> int | None:
        """When to look again at a ring that could not be answered for, or None.

        None means that the completion of what is in flight is a reason to look.
        """
        ready = self.ready_at(begun)
        if now < ready:
            return ready
        if self.kind is StopKind.TICK:
            return now + TICK_NS - (now - begun) % TICK_NS
        return None
