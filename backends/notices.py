"""What a back-end tells its front-end unasked, on the channel that SET_BACKEND_REQ_FD gave it.

There is one such thing: that the configuration space has changed. Nothing ever waits for the
answer, and while one is due nothing more is said; what changes meanwhile is told once then.
"""

from __future__ import annotations

import logging
import select
from typing import TYPE_CHECKING

from vhost_user.backend_channel import BackendChannel
from vhost_user.errors import Disconnected, FrontendError
from vhost_user.messages import BACKEND_MESSAGES, BackendRequest

if TYPE_CHECKING:
    from backends.device import BackendDevice
    from vhost_user.messages import Request
    from vhost_user.session import BackendSession

log = logging.getLogger("backends")


class Notices:
    """The notices of one connection.

    Args:
        device: whose configuration it is.
        session: what was agreed on with the front-end.
    """

    def __init__(self, device: BackendDevice, session: BackendSession) -> None:
        self._device = device
        self._session = session
        self._channel: BackendChannel | None = None
        self._writing = False
        self._changed = False
        device.on_config_change = self._config_changed

    def set_channel(self, request: Request) -> None:
        """Handles SET_BACKEND_REQ_FD; a channel that was there before is closed."""
        channel = BackendChannel.adopt(request.fds[0], self._session)
        # Nobody knows whether what was not answered there has been read.
        self._changed |= self._channel is not None and self._channel.outstanding > 0
        self._drop()
        self._channel = channel
        self._device.loop.watch(channel.fileno(), self._on_ready)
        self._tell()

    def close(self) -> None:
        """The front-end has gone."""
        self._device.on_config_change = self._device.on_start = None
        self._drop()

    def _config_changed(self) -> None:
        self._changed = True
        self._tell()

    def _tell(self) -> None:
        """Say what is to be said, if that can be now."""
        channel = self._channel
        if not self._changed or channel is None or channel.outstanding or channel.wants_write:
            return
        if self._session.closed(BACKEND_MESSAGES[BackendRequest.CONFIG_CHANGE_MSG]):
            self._changed = False  # without CONFIG nobody has read it
            return
        if not any(ring.started for ring in self._device.rings):
            # A device whose rings are all stopped is suspended, and says nothing (a6e76dd3c3).
            self._device.on_start = self._on_start
            return
        self._changed = False
        channel.tell(BackendRequest.CONFIG_CHANGE_MSG)
        self._flush(channel)

    def _on_start(self) -> None:
        self._device.on_start = None
        self._tell()

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
        self._tell()

    def _flush(self, channel: BackendChannel) -> bool:
        """Send what waits; False when it could not all be sent now."""
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
