"""The messages that a back-end sends on the channel of SET_BACKEND_REQ_FD.

There is one such message: the configuration space has changed. Nothing ever waits for the reply;
while one is due no message is sent, and changes that come meanwhile are reported once then.
"""

from __future__ import annotations

import logging
import select
from typing import TYPE_CHECKING

from vhost_user.backend_channel import BackendChannel
from vhost_user.errors import Disconnected, FrontendError
from vhost_user.messages import BACKEND_MESSAGES, BackendRequest, FrontendRequest

if TYPE_CHECKING:
    from backends.device import BackendDevice
    from backends.handlers import Handler
    from vhost_user.backend_session import BackendSession
    from vhost_user.messages import Request

log = logging.getLogger("backends")


class ConfigChanges:
    """Reports configuration changes to the front-end of one connection.

    Args:
        device: the device whose configuration it is.
        session: what was negotiated with the front-end.
        own_address: of the socket that the front-end has connected to; empty for a socket pair.
    """

    def __init__(self, device: BackendDevice, session: BackendSession, own_address: str) -> None:
        self._own_address = own_address
        self._device = device
        self._session = session
        self._channel: BackendChannel | None = None
        self._writing = False
        self._changed = False

    def handlers(self) -> dict[int, Handler]:
        """Handle SET_BACKEND_REQ_FD, which sets the channel."""
        return {FrontendRequest.SET_BACKEND_REQ_FD: self._set_channel}

    def config_changed(self) -> None:
        """The configuration space has changed."""
        self._changed = True
        self._report()

    def ring_started(self) -> None:
        """A device that was suspended runs: report what changed meanwhile."""
        if self._changed:
            self._report()

    def close(self) -> None:
        """The front-end has disconnected."""
        self._drop()

    def _set_channel(self, request: Request) -> None:
        """A channel that was there before is closed."""
        channel = BackendChannel.from_fd(request.fds[0], self._session, self._own_address)
        # It is not known whether a message without a reply has been read there.
        self._changed |= self._channel is not None and self._channel.outstanding > 0
        self._drop()
        self._channel = channel
        self._device.loop.watch(channel.fileno(), self._on_ready)
        self._report()

    def _report(self) -> None:
        """Send what is to be sent, if that is possible now."""
        channel = self._channel
        if not self._changed or channel is None or channel.outstanding or channel.wants_write:
            return
        if self._session.why_not_allowed(BACKEND_MESSAGES[BackendRequest.CONFIG_CHANGE_MSG]):
            self._changed = False  # without CONFIG no front-end has read it
            return
        if not self._device.running:
            # A device whose rings are all stopped is suspended and sends nothing (a6e76dd3c3).
            return
        self._changed = False
        channel.send(BackendRequest.CONFIG_CHANGE_MSG)
        self._flush(channel)

    def _on_ready(self, events: int) -> None:
        channel = self._channel
        if channel is None or (events & select.EPOLLOUT and not self._flush(channel)):
            return
        try:
            answers = channel.receive()
        except Disconnected:
            self._drop()
            return
        except FrontendError as error:
            log.warning("%s; its channel is closed", error)
            self._drop()
            return
        for answer in answers:
            if answer.code:
                name = answer.id.name
                log.warning("%s: %s was answered with %d", self._device.name, name, answer.code)
        self._report()

    def _flush(self, channel: BackendChannel) -> bool:
        """Send what is queued; False when it could not all be sent now."""
        try:
            done = channel.flush()
        except Disconnected:
            self._drop()
            return False
        if done is self._writing:
            self._writing = not done
            events = select.EPOLLIN if done else select.EPOLLIN | select.EPOLLOUT
            self._device.loop.change(channel.fileno(), events)
        return done

    def _drop(self) -> None:
        if self._channel is not None:
            self._device.loop.unwatch(self._channel.fileno())
            self._channel.close()
            self._channel = None
            self._writing = False
