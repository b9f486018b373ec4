"""How a ring is served: by a compiled function where possible, otherwise request by request.

A compiled function serves requests of the usual kind, many in one call. It stops at a request of
another kind, which the device serves then; or all of them, without the compiled extension.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

from backends.limits import BUDGET, requests_in

if TYPE_CHECKING:
    from collections.abc import Callable

    from backends.ring import Ring
    from vhost_user.virtqueue import Chain, DeviceQueue

#: Of the result of a compiled function: the driver wants an interrupt.
NOTIFY = 4
#: For a NIC: of the receive ring as well.
NOTIFY_OTHER = 8


class Served(IntEnum):
    """The rest of its result."""

    #: The next request is not one for the compiled function.
    UNUSUAL = 0
    #: The ring is empty, and asks for a kick.
    ALL = 1
    #: There may be more requests.
    SOME = 2


#: By their values: a call of `Served` takes longer.
SERVED = tuple(Served)


def serve_ring(
    ring: Ring,
    queue: DeviceQueue,
    compiled: Callable[[Ring], Served],
    serve: Callable[[Ring, DeviceQueue, Chain], None],
) -> bool:
    """Serve a ring for a while; what `VirtioDevice.process` does.

    Args:
        ring: the ring.
        queue: its queue.
        compiled: calls the compiled function, if it can be called now.
        serve: serves one request.

    Returns:
        True when there may be more requests; otherwise a kick was asked for.

    Raises:
        FrontendError: the driver broke the ring's or the device's rules.
    """
    left = BUDGET
    while left > 0:
        begun = queue.last_avail
        served = compiled(ring)
        if served is Served.ALL:
            return False
        if served is Served.SOME:
            return True
        # After a request of another kind the next ones may be usual again.
        mixed = queue.last_avail != begun
        chain = None
        try:
            while left > 0:
                chain = queue.pop()
                if chain is None:
                    break
                left -= requests_in(chain)
                serve(ring, queue, chain)
                if mixed:
                    break
        finally:
            if queue.publish():
                ring.interrupt()
        if chain is None:
            return queue.arm()
    return True
