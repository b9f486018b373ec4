"""The suite's back-end in one session: it replies by its script, serves rings, and records."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import time
from typing import TYPE_CHECKING

from vhost_user.codec import NEED_REPLY
from vhost_user.features import ProtocolFeature
from vhost_user.message_spec import ReplyRule
from vhost_user.messages import FRONTEND_MESSAGES, BackendRequest
from vhost_user.payload_layout import PayloadError
from vhost_user_conformance.front_end.acts import START
from vhost_user_conformance.front_end.descriptors import describe, map_shared
from vhost_user_conformance.front_end.recording import F, Received, Recording
from vhost_user_conformance.front_end.replies import Replies
from vhost_user_conformance.front_end.ring_service import RingService
from vhost_user_conformance.front_end.script import REPLY_FLAGS, Script
from vhost_user_conformance.model.device_class import load
from vhost_user_conformance.peer.wire import (
    Closed,
    Message,
    Silent,
    Wire,
    WireError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from vhost_user_conformance.front_end.device import Device
    from vhost_user_conformance.front_end.qmp import Qmp
    from vhost_user_conformance.front_end.ring import Ring
    from vhost_user_conformance.model.device_class import DeviceClass

#: Names of the messages of the back-end channel.
CHANNEL_NAMES = {member.value: member.name for member in BackendRequest}
#: Seconds between two checks of a condition that `Session.pump` waits for.
_POLL = 0.05


class Session:
    """One connection of the front-end under test.

    Args:
        wire: connected.
        script: the back-end's behaviour.
        row: class of the device.
        device: the device of an earlier session that this one continues.

    Attributes:
        recording: of the session so far.
        row: class of the device.
        act: the current act.
        protocol: protocol features that the front-end has acknowledged.
        channel: the back-end channel, if the front-end has set one.
        device: carries out requests.
        over: the connection is closed or unusable.
        longest_pause: the longest time between two messages, in seconds.
    """

    def __init__(
        self, wire: Wire, script: Script, row: DeviceClass, device: Device | None = None
    ) -> None:
        self.wire = wire
        self.script = script
        self.recording = Recording(transcript=wire.transcript)
        self.act = START
        self.protocol = 0
        self.channel: Wire | None = None
        self.over = False
        self.longest_pause = 0.0
        self.row = row
        self.device: Device = load(row.played)() if device is None else device
        self._last = time.monotonic()
        self._service = RingService(script, self.device, self.recording)
        self._replies = Replies(script, row, self._service)
        self._reactions = dict(script.reactions)

    @property
    def rings(self) -> dict[int, Ring]:
        """The rings that the front-end has configured, by index."""
        return self._service.rings

    @property
    def running(self) -> bool:
        """Whether a ring has been started and kicked."""
        return self._service.running

    # -- the loop

    def pump(self, done: Callable[[], bool], timeout: float, qmp: Qmp | None = None) -> bool:
        """Answer messages and serve rings until ``done()``.

        Returns:
            The last value of ``done()``; it is False after the timeout.
        """
        deadline = time.monotonic() + timeout
        while not self.over:
            if done():
                return True
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self._step(min(left, _POLL), qmp)
        return done()

    def _step(self, wait: float, qmp: Qmp | None) -> None:
        self._service.serve_busy()
        poll = select.poll()
        poll.register(self.wire.fileno(), select.POLLIN)
        if qmp is not None and not qmp.closed:
            poll.register(qmp.fileno(), select.POLLIN)
        kicks = {}
        for ring in self.rings.values():
            if ring.kick is not None:
                poll.register(ring.kick, select.POLLIN)
                kicks[ring.kick] = ring
        ready = {fd for fd, _ in poll.poll(0 if self._service.busy else wait * 1000)}
        for fd in ready & kicks.keys():
            self._service.kicked(kicks[fd], fd, self.act)
        if qmp is not None and qmp.fileno() in ready:
            qmp.take()
        # A message may close what was polled, so it comes last.
        if self.wire.fileno() in ready:
            self._take()

    def quiet(self, seconds: float) -> bool:
        """Whether no message has come for this time; kicks do not count."""
        return time.monotonic() - self._last >= seconds

    def restart_quiet(self) -> None:
        """Start the time of `quiet` again."""
        self._last = time.monotonic()

    def stop_recording(self) -> None:
        """Answer further messages without recording them."""
        self.recording.transcript = list(self.recording.transcript)
        self.recording = self._service.recording = Recording()

    def hang_up(self) -> None:
        """Close the connection, as at the end of a back-end."""
        self.wire.close()
        self.over = True

    def close_channel(self) -> None:
        """Close the back-end channel."""
        if self.channel is not None:
            self.channel.close()
            self.channel = None

    def complete_one(self) -> bool:
        """Complete the request that has been held longest. Returns False if none is held."""
        return self._service.complete_one()

    def start_serving(self) -> None:
        """Serve the rings from now on, also where the script is idle."""
        self._service.paused = False
        for ring in self.rings.values():
            self._service.serve(ring)

    def stop_serving(self) -> None:
        """Take no further request; those that are available stay so."""
        self._service.paused = True

    def available(self) -> dict[int, int | None]:
        """The available index of each ring that runs."""
        return self._service.available()

    def waiting(self) -> dict[int, int]:
        """Rings with requests that have not been kicked for, and the index of the next request."""
        return self._service.waiting()

    def mark(self, what: str) -> None:
        """Record what the script has done: the next messages are the front-end's reaction."""
        self.recording.marks.append((len(self.recording.messages), what))

    # -- messages

    def _take(self) -> None:
        try:
            message = self.wire.receive()
        except WireError as error:
            self._end(clean=isinstance(error, Closed))
            return
        now = time.monotonic()
        if self.recording.messages:
            self.longest_pause = max(self.longest_pause, now - self._last)
        self._last = now
        self._record(message)
        try:
            self._apply(message)
            self._answer(message)
        except (WireError, BrokenPipeError) as error:
            # The front-end reads no replies. It did not close the connection.
            self._end(clean=not isinstance(error, Silent))
        finally:
            message.close()

    def _end(self, *, clean: bool) -> None:
        self.over = True
        self.recording.left = self.recording.left or clean

    def _record(self, message: Message) -> None:
        self.recording.messages.append(
            Received(
                len(self.recording.messages),
                self.act,
                message.id,
                message.flags,
                message.payload,
                tuple(map(describe, message.fds)),
                self._service.features,
                self.protocol,
                self._wants_reply(message) and self.wire.waiting,
                len(self.recording.transcript),
            )
        )

    def _apply(self, message: Message) -> None:
        """Apply a message; the cases judge a payload that cannot be decoded."""
        service = self._service
        with contextlib.suppress(PayloadError, ValueError):
            if message.id == F.SET_FEATURES:
                service.negotiated(message.u64)
            elif message.id == F.SET_PROTOCOL_FEATURES:
                self.protocol = message.u64
            elif message.id == F.SET_STATUS:
                self._replies.status = message.u64
            elif message.id in (F.SET_MEM_TABLE, F.ADD_MEM_REG, F.REM_MEM_REG):
                service.share_memory(message)
            elif message.id in (F.SET_LOG_BASE, F.SET_INFLIGHT_FD) and message.fds:
                self._try_mapping(message)
            elif message.id == F.SET_BACKEND_REQ_FD and message.fds:
                self._open_channel(message)
            else:
                service.configure(message)

    def _try_mapping(self, message: Message) -> None:
        """Try to map a log or an inflight region; both payloads begin with size and offset."""
        size, offset = struct.unpack_from("<QQ", message.payload.ljust(16, b"\0"))
        if map_shared(message.fds[0], size, offset) is None:
            self.recording.unmapped.add(len(self.recording.messages) - 1)

    def _open_channel(self, message: Message) -> None:
        self.close_channel()
        fd = os.dup(message.fds[0])
        try:
            sock = socket.socket(fileno=fd)
        except OSError:  # not a socket, which the cases judge
            os.close(fd)
            return
        self.channel = Wire(sock, CHANNEL_NAMES, self.wire.timeout)

    def _answer(self, message: Message) -> None:
        reaction = self._reactions.get(message.id)
        if self.script.delay and self._wants_reply(message):
            time.sleep(self.script.delay)  # the delay is what is tested
        if reaction is None:
            self.answer(message)
        else:
            reaction(self, message)

    def _wants_reply(self, message: Message) -> bool:
        row = FRONTEND_MESSAGES.get(F(message.id)) if message.id in F._value2member_map_ else None
        if row is not None and row.reply is ReplyRule.ALWAYS:
            return True
        if message.id == F.SET_LOG_BASE and self.protocol & ProtocolFeature.LOG_SHMFD:
            return True
        return bool(message.flags & NEED_REPLY and self.protocol & ProtocolFeature.REPLY_ACK)

    def answer(self, message: Message) -> None:
        """Reply as a correct back-end does."""
        if not self._wants_reply(message):
            return
        payload, fds = self.reply_to(message)
        self.reply(message.id, payload, fds)

    def reply(
        self, number: int, payload: bytes, fds: tuple[int, ...] = (), flags: int = REPLY_FLAGS
    ) -> None:
        """Send a reply, valid or not."""
        self.wire.send(number, payload, flags=flags, fds=fds)

    def reply_to(self, message: Message) -> tuple[bytes, tuple[int, ...]]:
        """Payload and descriptors of a correct back-end's reply."""
        return self._replies.reply_to(message)

    def close(self) -> None:
        """Close the connection and all received descriptors; an error does not stop this.

        Raises:
            OSError: a descriptor had been closed before.
        """
        with contextlib.ExitStack() as owned:
            owned.callback(self._replies.close)
            owned.callback(self._service.close)
            if self.channel is not None:
                owned.callback(self.channel.close)
            owned.callback(self.wire.close)
