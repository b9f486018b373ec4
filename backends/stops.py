"""Rings that were asked to stop: what their answers wait for.

GET_VRING_BASE is answered at once where nothing is in flight and the stop policy does not want
more. Else the ring takes nothing more from then on, and its answer waits, with those of all
other rings that are asked to stop meanwhile. RESET_DEVICE waits in the same way, for all rings, and
so does a status of 0, which is the same (virtio 1.3, 2.4).
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple, cast

from backends import stats
from backends.stop_policy import DRAIN_LIMIT_NS, StopKind, StopPolicy
from vhost_user.errors import FrontendError
from vhost_user.messages import FrontendRequest, Request
from vhost_user.payloads import VringState

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from backends.device import BackendDevice
    from backends.loop import Timer
    from backends.ring import Ring
    from vhost_user.backend import BackendConnection
    from vhost_user.payloads import U64

#: A device status is a byte (virtio 1.3, 2.1).
MAX_STATUS = 0xFF


class Stop(NamedTuple):
    """A request that is answered when these rings have nothing in flight any more.

    Attributes:
        request: GET_VRING_BASE, RESET_DEVICE, or SET_STATUS with 0.
        rings: those it stops.
        since: when it was asked for; monotonic nanoseconds.
    """

    request: Request
    rings: Sequence[Ring]
    since: int


class Stops:
    """The stops of one connection.

    A device takes its stop time once in an *episode*, which begins when a ring is asked to stop
    and ends when one is started again, however many rings are stopped in it, and in whatever way.

    Args:
        device: whose rings they are.
        connection: where the answers go.
        policy: what is waited for.
        holder: who takes the control plane of a shared loop while a stop waits, or None.
        answered: called when answers that waited have been given.
        blame: called with what is wrong when a stop takes too long.

    Attributes:
        pending: stops that wait, in order.
    """

    def __init__(
        self,
        device: BackendDevice,
        connection: BackendConnection,
        policy: StopPolicy,
        *,
        holder: object | None,
        answered: Callable[[], None],
        blame: Callable[[FrontendError], None],
    ) -> None:
        self._device = device
        self._connection = connection
        self._policy = policy
        self._instant = policy.instant
        self._drains = policy.kind is StopKind.DRAIN
        self._holder = holder
        self._answered = answered
        self._blame = blame
        self._timer: Timer | None = None
        self._starts_then = -1
        self._begun = 0
        self.pending: deque[Stop] = deque()

    def get_vring_base(self, request: Request) -> bool:
        """Handles GET_VRING_BASE."""
        device = self._device
        ring = device.rings[request.payload.index]  # type: ignore[union-attr, index]
        if self._drains:
            device.drain(ring)
        if (self._instant or not ring.started) and not ring.in_flight and not self.pending:
            self._connection.reply(request, VringState(ring.index, device.stop(ring)))
        else:
            self._begin(request, [ring])
        return True

    def reset_device(self, request: Request) -> bool | None:
        """Handles RESET_DEVICE, and a status of 0."""
        rings = self._device.rings
        if not self.pending and not any(ring.started or ring.in_flight for ring in rings):
            self._reset(request)
            return None
        self._begin(request, rings)
        return True

    def set_status(self, request: Request) -> bool | None:
        """Handles SET_STATUS. What was not offered is refused earlier, so FEATURES_OK may stay."""
        status = cast("U64", request.payload).value
        if status > MAX_STATUS:
            raise FrontendError(f"status {status:#x} has more than 8 bits")
        if not status:
            return self.reset_device(request)
        self._device.status = status
        return None

    def on_idle(self) -> None:
        """A ring that is stopping has nothing in flight any more."""
        if self._policy.kind is not StopKind.TICK:
            self._look()

    def abandon(self) -> None:
        """Nobody waits for the answers any more."""
        self.pending.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _begin(self, request: Request, rings: Sequence[Ring]) -> None:
        now = time.monotonic_ns()
        starts = self._device.counters[stats.RING_STARTS]
        if starts != self._starts_then:
            self._starts_then, self._begun = starts, now
        for ring in rings:
            self._device.halt(ring)
            ring.stopping = True
        self.pending.append(Stop(request, rings, now))
        self._answer_ready()

    def _look(self) -> None:
        if self.pending:
            self._answer_ready()
            self._answered()

    def _answer_ready(self) -> None:
        """Answer the stops that have nothing more to wait for, in order."""
        now = time.monotonic_ns()
        ready = self._policy.ready_at(self._begun)
        while self.pending and now >= ready:
            request, rings, since = self.pending[0]
            if any(ring.in_flight for ring in rings):
                if now > self._limit(since):
                    self._blame(FrontendError("requests in flight did not end in time"))
                    return
                break
            self.pending.popleft()
            self._answer(request, rings)
        if self.pending:
            self._wait(now)
        elif self._holder is not None:
            self._device.loop.give_control(self._holder)

    def _limit(self, since: int) -> int:
        """Until when what is in flight may go on after a stop was asked for.

        An episode may have begun long before: other rings of the device ran on meanwhile.
        """
        return max(self._policy.ready_at(self._begun), since) + DRAIN_LIMIT_NS

    def _answer(self, request: Request, rings: Sequence[Ring]) -> None:
        if request.id == FrontendRequest.GET_VRING_BASE:
            base = self._device.stop(rings[0])
            self._connection.reply(request, VringState(rings[0].index, base))
        else:
            self._reset(request)
            self._connection.ack(request)

    def _reset(self, request: Request) -> None:
        # QEMU 7.2 sets status 0 first, and asks for the bases that it migrates then.
        self._device.reset(keep_bases=request.id == FrontendRequest.SET_STATUS)

    def _wait(self, now: int) -> None:
        if self._holder is not None:
            self._device.loop.take_control(self._holder)
        if self._timer is not None:
            self._timer.cancel()
        due = self._policy.next_look(self._begun, now)
        if due is None:
            due = self._limit(self.pending[0].since) + 1
        self._timer = self._device.loop.at(due, self._look)
