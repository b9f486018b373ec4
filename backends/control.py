"""One front-end's connection to a device: requests in, replies out, and how it ends.

Messages are handled as they come, and answered in that order. A stop that has to wait (for
requests in flight, or because the stop policy says so) holds back its own answer and whatever
comes after it, except further stops, which so wait together.
"""

from __future__ import annotations

import logging
import select
import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from backends.handlers import Handlers
from backends.notices import Notices
from backends.pacing import Costs
from backends.postcopy import Postcopy
from backends.stop_policy import StopPolicy
from backends.stops import Stops
from vhost_user.backend import BackendConnection
from vhost_user.errors import Disconnected, FrontendError
from vhost_user.features import ProtocolFeature
from vhost_user.messages import (
    FRONTEND_MESSAGES,
    FrontendRequest,
    ReplyRule,
    Request,
    wire_name,
)

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from backends.device import BackendDevice
    from backends.ring import Ring

log = logging.getLogger("backends")

_F = FrontendRequest
REFUSED = 1


class ControlOptions(NamedTuple):
    """How a control plane behaves.

    Attributes:
        policy: how rings are stopped.
        costs: what units of work are made to cost.
        shared: the loop serves other devices as well, and a stop that waits keeps their control
            sockets waiting, as it does in DPDK, SPDK, VPP and passt.
    """

    policy: StopPolicy = StopPolicy()
    costs: Costs = Costs()
    shared: bool = False


class Control:
    """Serves one connection of a front-end.

    Args:
        device: what it speaks to.
        sock: the connection; it is closed when the front-end has gone.
        options: how it behaves.
        on_gone: called when the front-end has gone and the device can take another one.
    """

    def __init__(
        self,
        device: BackendDevice,
        sock: socket.socket,
        options: ControlOptions,
        on_gone: Callable[[], None],
    ) -> None:
        self._device = device
        self._loop = device.loop
        self._options = options
        self._on_gone = on_gone
        self._connection = BackendConnection(
            sock,
            name=device.name,
            features=device.features,
            protocol_features=device.protocol_features,
            num_queues=len(device.rings),
        )
        self._fd = self._connection.fileno()
        self._inbox: deque[Request] = deque()
        self._arrival = 0
        self._paced = any(options.costs)
        self._leaving = False
        self._stops = Stops(
            device,
            self._connection,
            options.policy,
            holder=self if options.shared else None,
            answered=self._work,
            blame=self._blame,
        )
        self._handlers = Handlers(device, self._connection, options.costs.set_mem_table, self._pay)
        self._table = self._handlers.table
        self._postcopy = Postcopy(
            device,
            self._connection,
            self._table,
            self._handlers.lent,
            self._handlers.memory_changed,
        )
        self._notices = Notices(device, self._connection.session)
        self._table[_F.SET_BACKEND_REQ_FD] = self._notices.set_channel
        self._table[_F.RESET_DEVICE] = self._stops.reset_device
        self._table[_F.SET_STATUS] = self._stops.set_status
        cost = options.costs.get_vring_base
        self._table[_F.GET_VRING_BASE] = (
            partial(self._paid_stop, cost) if cost else self._stops.get_vring_base
        )
        self._watched = False
        self._writing = False
        device.on_idle = self._on_idle
        self._watch(select.EPOLLIN)

    def close(self) -> None:
        """Leave the front-end; the loop has ended."""
        self._postcopy.close()
        self._drop_requests()
        self._notices.close()
        self._connection.close()

    def hurry(self) -> None:
        """From any thread: the loop is to end, whatever it waits for."""
        self._postcopy.give_up()

    # Requests in, replies out

    def _on_ready(self, events: int) -> None:
        if self._loop.must_wait(self, self._resume_reading):
            self._unwatch()
            return
        if events & select.EPOLLOUT and not self._flush():
            return
        self._arrival = time.monotonic_ns()
        if self._paced:
            self._loop.pacer.arrived(self._arrival)
        try:
            requests = self._connection.receive()
        except Disconnected:
            self._leave()
            return
        except FrontendError as error:
            self._blame(error)
            return
        if self._inbox or self._stops.pending:
            self._inbox.extend(requests)
            self._work()
        else:
            self._serve_all(requests)

    def _resume_reading(self) -> None:
        if not self._leaving:
            self._watch(select.EPOLLOUT if self._writing else select.EPOLLIN)

    def _watch(self, events: int) -> None:
        self._loop.watch(self._fd, self._on_ready, events)
        self._watched = True

    def _unwatch(self) -> None:
        if self._watched:
            self._watched = False
            self._loop.unwatch(self._fd)

    def _serve_all(self, requests: Sequence[Request]) -> None:
        for number, request in enumerate(requests, 1):
            self._serve(request)
            if self._stops.pending or self._leaving:
                # What comes after a stop that waits, waits as well.
                self._inbox.extend(requests[number:])
                break
        self._work()

    def _work(self) -> None:
        """Serve what is waiting, as far as pending stops allow; then answer, then look."""
        inbox = self._inbox
        while inbox and not self._leaving:
            if self._stops.pending and inbox[0].id != _F.GET_VRING_BASE:
                break
            self._serve(inbox.popleft())
        if self._leaving:
            self._drop_requests()
            return
        self._flush()
        if self._handlers.to_look:
            rings, self._handlers.to_look = self._handlers.to_look, {}
            for ring in rings:
                self._device.look(ring)

    def _serve(self, request: Request) -> None:
        handler = self._table.get(request.id)
        try:
            if handler is None:
                self._device.retire_fds(request.fds)
                raise FrontendError("is not served by this device")
            if handler(request) is None and request.need_reply:
                self._connection.ack(request)
        except FrontendError as error:
            error.message = error.message or wire_name(request.id)
            self._refuse(request, error)
        except Disconnected:
            return  # while a unit was paid for; the descriptors were its handler's to close

    def _refuse(self, request: Request, error: FrontendError) -> None:
        """Tell the front-end if it wants to know; else there is only one way to tell it."""
        error.device = self._device.name
        if request.need_reply and not self._has_own_reply(request):
            log.warning("%s", error)
            self._connection.ack(request, REFUSED)
        else:
            self._blame(error)

    def _has_own_reply(self, request: Request) -> bool:
        """Whether its answer is no acknowledgement, which alone can say no."""
        rule = FRONTEND_MESSAGES[request.id].reply
        shmfd = ProtocolFeature.LOG_SHMFD in self._connection.session.protocol_features
        return rule is ReplyRule.ALWAYS or (rule is ReplyRule.IF_LOG_SHMFD and shmfd)

    def _blame(self, error: FrontendError) -> None:
        error.device = self._device.name
        log.error("%s; connection closed", error)
        self._leave()

    def _flush(self) -> bool:
        """Send the replies; until they are gone, nothing more is read."""
        answers = self._paced and self._connection.wants_write
        try:
            done = self._connection.flush()
        except Disconnected:
            self._leave()
            return False
        if answers:
            self._loop.pacer.answered()
        if done and self._handlers.lent:
            self._close_lent()
        if done is self._writing:
            self._writing = not done
            if self._watched:
                self._loop.change(self._fd, select.EPOLLIN if done else select.EPOLLOUT)
        return done

    def _pay(self, cost: int) -> None:
        """Take as long as the unit is said to cost; what was answered before goes out first."""
        self._flush()
        if self._leaving:
            raise Disconnected("the front-end has gone", device=self._device.name)
        self._loop.pacer.charge(self._arrival, cost)

    def _paid_stop(self, cost: int, request: Request) -> bool:
        self._pay(cost)
        return self._stops.get_vring_base(request)

    def _on_idle(self, _ring: Ring) -> None:
        if self._leaving:
            self._leave_when_idle()
        else:
            self._stops.on_idle()

    # The front-end goes

    def _leave(self) -> None:
        if self._leaving:
            return
        self._leaving = True
        self._unwatch()
        for ring in self._device.rings:
            self._device.halt(ring)
            ring.stopping = True
        self._stops.abandon()
        self._drop_requests()
        self._postcopy.close()
        self._notices.close()
        self._connection.close()
        self._leave_when_idle()

    def _leave_when_idle(self) -> None:
        if any(ring.in_flight for ring in self._device.rings):
            return
        self._device.on_idle = None
        self._device.reset()
        self._device.forget_memory()
        self._loop.finally_(self._device.tidy)
        self._loop.give_control(self)
        self._on_gone()

    def _close_lent(self) -> None:
        lent = self._handlers.lent
        self._device.retire_fds(lent)
        lent.clear()

    def _drop_requests(self) -> None:
        for request in self._inbox:
            self._device.retire_fds(request.fds)
        self._inbox.clear()
        self._close_lent()
