"""The messages that stop rings, and what their replies wait for.

GET_VRING_BASE is replied to at once where no request is in flight and the stop policy allows it.
Otherwise the ring takes no more requests, and the reply waits, with those of all other rings that
are stopped meanwhile. RESET_DEVICE waits in the same way, for all rings, and so does a status of 0,
which is the same (virtio 1.3, 2.4).
"""

from __future__ import annotations

import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, cast

from backends import stats
from backends.ring import stop_all
from backends.stop_policy import StopKind, StopPolicy
from vhost_user.errors import FrontendError
from vhost_user.messages import FrontendRequest, Request
from vhost_user.payloads import VringState

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from backends.device import BackendDevice
    from backends.handlers import Handler, RunHandler
    from backends.loop import Timer
    from backends.ring import Ring
    from vhost_user.backend import BackendConnection
    from vhost_user.messages import RequestRun
    from vhost_user.payloads import U64

#: A device status is a byte (virtio 1.3, 2.1).
MAX_STATUS = 0xFF


class Stop(NamedTuple):
    """A request that is replied to when these rings have no request in flight any more.

    Attributes:
        request: GET_VRING_BASE, RESET_DEVICE, or SET_STATUS with 0.
        rings: the rings that it stops.
        since: when it came; monotonic nanoseconds.
    """

    request: Request
    rings: Sequence[Ring]
    since: int


class Stops:
    """The stops of one connection.

    A device takes its stop time once in an *episode*, which begins when a ring is to stop and
    ends when a ring is started again, for any number of rings that are stopped in it.

    Args:
        device: the device whose rings are stopped.
        connection: where the replies go.
        policy: what a stop waits for.
        holder: what holds the control plane of a shared loop while a stop waits, or None.
        answered: called when replies that waited have been queued.
        close_with: called with the error when a stop takes too long.
        inject: takes the injected latency of GET_VRING_BASE, or None.

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
        close_with: Callable[[FrontendError], None],
        inject: Callable[[], None] | None = None,
    ) -> None:
        self._device = device
        self._connection = connection
        self._policy = policy
        self._instant = policy.instant
        self._drains = policy.kind is StopKind.DRAIN
        self._holder = holder
        self._answered = answered
        self._close_with = close_with
        self._inject = inject
        self._timer: Timer | None = None
        self._starts_then = -1
        self._begun = 0
        self.pending: deque[Stop] = deque()

    def handlers(self) -> dict[int, Handler]:
        """The messages that stop rings, by id."""
        get_base = self._get_vring_base
        if self._inject is not None:
            get_base = partial(self._get_vring_base_after, self._inject)
        return {
            FrontendRequest.GET_VRING_BASE: get_base,
            FrontendRequest.RESET_DEVICE: self._reset_device,
            FrontendRequest.SET_STATUS: self._set_status,
        }

    def run_handlers(self) -> dict[int, RunHandler]:
        """The messages of which a run is handled at once, by id."""
        if self._instant and not self._drains and self._inject is None:
            return {FrontendRequest.GET_VRING_BASE: self._get_vring_bases}
        return {}

    def _get_vring_bases(self, run: RequestRun) -> bool:
        rings = self._device.rings
        stopped = [rings[index] for index, _ in run.payloads]
        if self.pending or any([ring.in_flight for ring in stopped]):  # noqa: C419  it is faster
            return False
        self._connection.reply_run(run, stop_all(stopped))
        return True

    def _get_vring_base_after(self, inject: Callable[[], None], request: Request) -> bool:
        inject()
        return self._get_vring_base(request)

    def _get_vring_base(self, request: Request) -> bool:
        ring = self._device.rings[request.payload.ring]  # type: ignore[union-attr]
        if self._drains:
            ring.drain()
        if (self._instant or not ring.started) and not ring.in_flight and not self.pending:
            self._connection.reply(request, VringState(ring.index, ring.stop()))
        else:
            self._begin(request, [ring])
        return True

    def _reset_device(self, request: Request) -> bool | None:
        """RESET_DEVICE, and a status of 0."""
        rings = self._device.rings
        if not self.pending and not any(ring.started or ring.in_flight for ring in rings):
            self._reset(request)
            return None
        self._begin(request, rings)
        return True

    def _set_status(self, request: Request) -> bool | None:
        """Features that were not offered are refused earlier, so FEATURES_OK may stay set."""
        status = cast("U64", request.payload).value
        if status > MAX_STATUS:
            raise FrontendError(f"status {status:#x} has more than 8 bits")
        if not status:
            return self._reset_device(request)
        self._device.set_status(status)
        return None

    def ring_idle(self) -> None:
        """A ring that is stopping has no request in flight any more."""
        if self._policy.kind is not StopKind.TICK:
            self._check()

    def abandon(self) -> None:
        """The front-end has disconnected and does not wait for the replies any more."""
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
            ring.begin_stop()
        self.pending.append(Stop(request, rings, now))
        self._answer_ready()

    def _check(self) -> None:
        if self.pending:
            self._answer_ready()
            self._answered()

    def _answer_ready(self) -> None:
        """Reply to the stops that have nothing more to wait for, in order."""
        now = time.monotonic_ns()
        ready = self._policy.ready_at(self._begun)
        while self.pending and now >= ready:
            request, rings, since = self.pending[0]
            if any(ring.in_flight for ring in rings):
                if now > self._limit(since):
                    # Requests may have completed while the loop was kept from running: those
                    # completions have been posted, and are handled first.
                    self._device.loop.post(self._give_up)
                    return
                break
            self.pending.popleft()
            self._answer(request, rings)
        if self.pending:
            self._wait(now)
        elif self._holder is not None:
            self._device.loop.give_control(self._holder)

    def _give_up(self) -> None:
        """Close the connection if requests are still in flight beyond the limit."""
        if not self.pending:
            return
        _, rings, since = self.pending[0]
        if any(ring.in_flight for ring in rings) and time.monotonic_ns() > self._limit(since):
            self._close_with(FrontendError("requests in flight did not end in time"))
        else:
            self._check()

    def _limit(self, since: int) -> int:
        """The latest time at which the requests in flight of a stop may complete.

        An episode may have begun long before: other rings of the device ran on meanwhile.
        """
        return max(self._policy.ready_at(self._begun), since) + self._policy.drain_limit

    def _answer(self, request: Request, rings: Sequence[Ring]) -> None:
        if request.id == FrontendRequest.GET_VRING_BASE:
            base = rings[0].stop()
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
        due = self._policy.next_check(self._begun, now)
        if due is None:
            due = self._limit(self.pending[0].since) + 1
        self._timer = self._device.loop.at(due, self._check)
