"""One front-end's connection to a device: receives requests, sends replies, ends the connection.

Messages are handled and replied to in the order in which they arrive. While a stop waits (for
requests in flight, or because of the stop policy), later messages wait too, except further
GET_VRING_BASE: the stops of several rings wait at the same time.
"""

from __future__ import annotations

import logging
import select
import time
from collections import deque
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from backends.backend_channel import ConfigChanges
from backends.handlers import Handler, Handlers, RunHandler
from backends.isolation import describe
from backends.limits import MESSAGES_NS, REPLIES
from backends.pacing import InjectedLatency
from backends.postcopy import Postcopy
from backends.stop_policy import StopPolicy
from backends.stops import Stops
from vhost_user.backend import BackendConnection
from vhost_user.errors import Disconnected, FrontendError
from vhost_user.messages import FrontendRequest, Request, RequestRun, wire_name

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from backends.device import BackendDevice

log = logging.getLogger("backends")

_F = FrontendRequest
#: The acknowledgement of a request that is refused; every value other than 0 reports an error.
REFUSED = 1


class ControlOptions(NamedTuple):
    """How the control plane of a device behaves.

    Attributes:
        policy: what GET_VRING_BASE waits for.
        latency: the latency that is injected into messages.
        shared: the loop serves other devices as well, and a stop that waits keeps their control
            sockets waiting, as it does in DPDK, SPDK and VPP.
    """

    policy: StopPolicy = StopPolicy()
    latency: InjectedLatency = InjectedLatency()
    shared: bool = False


class Control:
    """Serves one connection of a front-end.

    Args:
        device: the device that is served.
        sock: the connection; it is closed when the front-end has disconnected.
        options: how the control plane behaves.
        on_disconnect: called when the front-end has disconnected and the device has been reset.
    """

    def __init__(
        self,
        device: BackendDevice,
        sock: socket.socket,
        options: ControlOptions,
        on_disconnect: Callable[[], None],
    ) -> None:
        self._device = device
        self._loop = device.loop
        self._on_disconnect = on_disconnect
        self._connection = BackendConnection(
            sock,
            name=device.name,
            features=device.features,
            protocol_features=device.protocol_features,
            num_queues=len(device.rings),
        )
        self._fd = self._connection.fileno()
        # Requests that were received and not handled yet: see `_serve_inbox`.
        self._inbox: deque[Request | RequestRun] = deque()
        # When the messages that are handled now arrived; monotonic nanoseconds.
        self._arrival = 0
        self._paced = any(options.latency)
        self._disconnecting = self._ended = False
        latency = options.latency.get_vring_base
        self._stops = Stops(
            device,
            self._connection,
            options.policy,
            holder=self if options.shared else None,
            answered=self._serve_inbox,
            close_with=self._close_with,
            inject=partial(self._inject, latency) if latency else None,
        )
        self._handlers = Handlers(
            device, self._connection, options.latency.set_mem_table, self._inject
        )
        self._postcopy = Postcopy(device, self._connection, self._handlers)
        self._config_changes = ConfigChanges(device, self._connection.session, sock.getsockname())
        own = device.virtio.handlers()
        # In this order: `Postcopy` replaces SET_MEM_TABLE and ADD_MEM_REG of `Handlers`.
        self._handlers_by_id: dict[int, Handler] = (
            self._handlers.handlers()
            | own
            | self._stops.handlers()
            | self._config_changes.handlers()
            | self._postcopy.handlers()
        )
        # A message that the device's class handles is handled one by one.
        self._run_handlers: dict[int, RunHandler] = {
            number: handler
            for number, handler in (
                self._handlers.run_handlers() | self._stops.run_handlers()
            ).items()
            if number not in own
        }
        self._watched = False
        # Some replies have not been sent: nothing is read until they are.
        self._writing = False
        # The loop will call `_continue`, for the rest of the inbox, in its next turn.
        self._continuing = False
        # The epoll events that the socket is watched for; epoll reports EPOLLHUP even with 0.
        self._events = select.EPOLLIN
        self._watch()

    # What the device reports

    def ring_started(self) -> None:
        """A ring of the device was started."""
        self._config_changes.ring_started()

    def ring_idle(self) -> None:
        """A ring that is stopping has no request in flight any more."""
        if self._disconnecting:
            self._disconnect_when_idle()
        else:
            self._stops.ring_idle()

    def config_changed(self) -> None:
        """The device's configuration space has changed."""
        self._config_changes.config_changed()

    # The end of the program

    def close(self) -> None:
        """Close the connection; the loop has ended."""
        self._postcopy.close()
        self._drop_requests()
        self._config_changes.close()
        self._connection.close()

    def stop_waiting(self) -> None:
        """From any thread: the loop is about to end; stop waiting for pages of postcopy."""
        self._postcopy.give_up()

    # Requests in, replies out

    def _on_ready(self, events: int) -> None:
        if self._loop.must_wait(self, self._resume_reading):
            self._unwatch()
            return
        if events & select.EPOLLOUT and not self._flush():
            return
        if self._inbox:
            # Nothing is read while messages wait.
            if events & select.EPOLLHUP:
                self._disconnect()
            else:
                self._serve_inbox()
            return
        self._arrival = time.monotonic_ns()
        if self._paced:
            self._loop.pacer.arrived(self._arrival)
        requests: Sequence[Request | RequestRun]
        try:
            # An injected latency is that of one message.
            requests = (
                self._connection.receive() if self._paced else self._connection.receive_runs()
            )
        except Disconnected:
            self._disconnect()
            return
        except FrontendError as error:
            self._close_with(error)
            return
        self._inbox.extend(requests)
        self._serve_inbox()

    def _resume_reading(self) -> None:
        if not self._disconnecting:
            self._watch()

    def _watch(self) -> None:
        self._loop.watch(self._fd, self._on_ready, self._events)
        self._watched = True

    def _watch_for(self) -> None:
        """Watch the socket for what can be done next."""
        events = 0 if self._inbox else select.EPOLLIN
        if self._writing:
            events = select.EPOLLOUT
        if events != self._events:
            self._events = events
            if self._watched:
                self._loop.change(self._fd, events)

    def _unwatch(self) -> None:
        if self._watched:
            self._watched = False
            self._loop.unwatch(self._fd)

    def _serve_inbox(self) -> None:
        """Handle the inbox, as far as pending stops allow; then send replies and poll rings.

        After `MESSAGES_NS` the rest is left to the next turn of the loop. Replies are also sent
        after every `REPLIES` messages. If the socket does not take them all, the rest of the inbox
        waits until the front-end has read some.
        """
        inbox, end = self._inbox, time.monotonic_ns() + MESSAGES_NS
        unsent = 0
        while self._next_may_be_served() and not self._disconnecting:
            request = inbox[0]
            count = 1 if isinstance(request, Request) else len(request.payloads)
            if unsent + count > REPLIES:
                if not self._flush():
                    break
                unsent = 0
            inbox.popleft()
            if isinstance(request, Request):
                self._serve(request)
            elif not self._serve_run(request):
                inbox.extendleft(reversed(self._connection.split(request)))
                continue
            unsent += count
            if time.monotonic_ns() > end:
                break
        if self._disconnecting:
            self._drop_requests()
            return
        # With all replies sent, EPOLLOUT is not awaited: no event of the socket would lead to the
        # rest of the inbox being handled.
        if self._flush() and self._next_may_be_served():
            self._continue_later()
        if not self._disconnecting:
            self._watch_for()
        if self._handlers.to_poll:
            self._handlers.poll_rings()

    def _next_may_be_served(self) -> bool:
        inbox = self._inbox
        return bool(inbox) and (not self._stops.pending or inbox[0].id == _F.GET_VRING_BASE)

    def _continue_later(self) -> None:
        if not self._continuing:
            self._continuing = True
            self._loop.again(self._continue)

    def _continue(self) -> None:
        self._continuing = False
        if self._disconnecting or self._loop.must_wait(self, self._continue):
            return
        self._serve_inbox()

    def _serve(self, request: Request) -> None:
        handler = self._handlers_by_id.get(request.id)
        try:
            if handler is None:
                self._device.close_later(request.fds)
                raise FrontendError("is not served by this device")
            if handler(request) is None and request.need_reply:
                self._connection.ack(request)
        except FrontendError as error:
            error.message = error.message or wire_name(request.id)
            self._refuse(request, error)
        except Disconnected:
            return  # raised by `_inject`; the handler owns the descriptors

    def _serve_run(self, run: RequestRun) -> bool:
        """Handle a run of messages; False if they have to be handled one by one."""
        handler = self._run_handlers.get(run.id)
        if handler is None:
            return False
        try:
            return handler(run)
        except FrontendError as error:
            # As for a single message: the front-end asked for no acknowledgement.
            error.message = error.message or wire_name(run.id)
            self._close_with(error)
            return True

    def _refuse(self, request: Request, error: FrontendError) -> None:
        """Acknowledge with an error if the front-end asked for that; else close the connection."""
        error.device = self._device.name
        if request.need_reply and self._connection.session.can_refuse(request):
            log.warning("%s", error)
            self._connection.ack(request, REFUSED)
        else:
            self._close_with(error)

    def _close_with(self, error: FrontendError) -> None:
        error.device = self._device.name
        log.error("%s; connection closed", error)
        self._disconnect()

    def _flush(self) -> bool:
        """Send the replies; False if some remain, or the front-end has disconnected."""
        had_replies = self._paced and self._connection.wants_write
        try:
            done = self._connection.flush()
        except Disconnected:
            self._disconnect()
            return False
        if had_replies:
            self._loop.pacer.replied()
        if done and self._handlers.sending:
            self._handlers.close_reply_fds()
        if done is self._writing:
            self._writing = not done
            self._watch_for()
        return done

    def _inject(self, latency: int) -> None:
        """Send the queued replies, then let the latency of one message pass.

        Raises:
            Disconnected: the front-end has disconnected.
        """
        self._flush()
        if self._disconnecting:
            raise Disconnected("the front-end has disconnected", device=self._device.name)
        self._loop.pacer.inject(self._arrival, latency)

    def fail(self, error: Exception) -> None:
        """Close the connection: an exception was raised while the device was served.

        Raises:
            Exception: a step of `_disconnect` has raised it; the others have been done.
        """
        if self._disconnecting:
            log.error("%s: %s", self._device.name, describe(error))
        else:
            log.error("%s: %s; connection closed", self._device.name, describe(error))
            self._disconnect()

    # The front-end disconnects

    def _disconnect(self) -> None:
        if self._disconnecting:
            return
        # The device may be reset only when no request is in flight: see `ring_idle`.
        self._disconnecting = True
        # Each step is done, whatever another one raises: the next front-end needs all of them.
        # `ExitStack` calls the last one first.
        with ExitStack() as steps:
            steps.callback(self._disconnect_when_idle)
            steps.callback(self._connection.close)
            steps.callback(self._config_changes.close)
            steps.callback(self._postcopy.close)
            steps.callback(self._drop_requests)
            steps.callback(self._stops.abandon)
            steps.callback(self._device.begin_stop)
            steps.callback(self._unwatch)

    def _disconnect_when_idle(self) -> None:
        if self._device.busy or self._ended:
            return
        self._ended = True
        with ExitStack() as steps:  # the last one is called first
            steps.callback(self._on_disconnect)
            steps.callback(self._loop.give_control, self)
            steps.callback(self._loop.finally_, self._device.close_now)
            steps.callback(self._device.disconnect)

    def _drop_requests(self) -> None:
        """Close the descriptors of requests that wait, and of replies that were not sent."""
        for request in self._inbox:
            if isinstance(request, Request):
                self._device.close_later(request.fds)
        self._inbox.clear()
        self._handlers.close_reply_fds()
