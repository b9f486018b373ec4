"""How a back-end stops a ring: what GET_VRING_BASE waits for before the reply.

Every policy waits for requests in flight, since their buffers are guest memory. They differ in
the rest:

=========  =======================================================================
immediate  takes no more requests from the ring, and replies as soon as none is in
           flight: at once for a device that serves requests as it takes them
           (passt does so)
drain      first serves all requests that the driver has made available, and
           replies when none is in flight any more
tick       takes no more requests, and checks every millisecond whether one is
           still in flight, so a stop takes at least a millisecond (SPDK's session
           stop)
=========  =======================================================================

With a stop time the reply is sent at least that long after the device's first ring began to
stop, whichever the policy.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

TICK_NS = 1_000_000
#: By default the connection is closed when a request in flight takes longer than this.
DRAIN_LIMIT_NS = 4_000_000_000


class StopKind(enum.Enum):
    """What a stop waits for; see the module."""

    IMMEDIATE = "immediate"
    DRAIN = "drain"
    TICK = "tick"


class StopPolicy(NamedTuple):
    """What a stop waits for, and how long.

    Attributes:
        kind: which requests are served before the reply.
        stop_time: nanoseconds that a stop takes at least.
        drain_limit: nanoseconds for the requests in flight, after which the connection is closed.
    """

    kind: StopKind = StopKind.IMMEDIATE
    stop_time: int = 0
    drain_limit: int = DRAIN_LIMIT_NS

    @property
    def instant(self) -> bool:
        """True when a ring without requests in flight is replied for at once."""
        return self.kind is not StopKind.TICK and not self.stop_time

    def ready_at(self, begun: int) -> int:
        """The earliest time of a reply, where the first ring began to stop at ``begun``."""
        ready = begun + self.stop_time
        return max(ready, begun + TICK_NS) if self.kind is StopKind.TICK else ready

    def next_check(self, begun: int, now: int) -> int | None:
        """When to check a ring again that could not be replied for, or None.

        None means that it is checked when its last request in flight completes.
        """
        ready = self.ready_at(begun)
        if now < ready:
            return ready
        if self.kind is StopKind.TICK:
            return now + TICK_NS - (now - begun) % TICK_NS
        return None
