"""The suite's back-end in one session: it answers by its script, serves rings, and records."""

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
from vhost_user.payloads import PayloadError
from vhost_user_conformance.front_end.acts import START
from vhost_user_conformance.front_end.descriptors import look_at, map_shared
from vhost_user_conformance.front_end.device import Device
from vhost_user_conformance.front_end.recording import F, Received, Recording
from vhost_user_conformance.front_end.replies import Replies
from vhost_user_conformance.front_end.ring_service import RingService
from vhost_user_conformance.front_end.script import REPLY_FLAGS, Script
from vhost_user_conformance.peer.wire import (
    Closed,
    Message,
    Silent,
    Wire,
    WireError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from vhost_user_conformance.front_end.qmp import Qmp
    from vhost_user_conformance.front_end.ring import Ring

#: Of the messages of the back-end channel.
CHANNEL_NAMES = {member.value: member.name for member in BackendRequest}
#: Seconds between two calls of a condition that `Session.pump` waits for.
_LOOK = 0.05


class Session:
    """One connection of the front-end under test.

    Args:
        wire: connected.
        script: how to behave.
        device: device class, or "".
        work: the device, if an earlier session has had it already.

    Attributes:
        recording: what the front-end has done so far.
        act: what is being done to the front-end.
        protocol: protocol features that the front-end has acknowledged.
        channel: the back-end channel, if the front-end has given one.
        work: the device, which carries requests out.
        over: the connection is closed, or cannot be used any more.
        longest_pause: seconds between two messages, at most.
    """

    def __init__(self, wire: Wire, script: Script, device: str, work: Device | None = None) -> None:
        self.wire = wire
        self.script = script
        self.recording = Recording(transcript=wire.transcript)
        self.act = START
        self.protocol = 0
        self.channel: Wire | None = None
        self.over = False
        self.longest_pause = 0.0
        self.work = Device(device) if work is None else work
        self._last = time.monotonic()
        self._service = RingService(script, self.work, self.recording)
        self._replies = Replies(script, device, self._service)
        self._reactions = dict(script.reactions)

    @property
    def rings(self) -> dict[int, Ring]:
        """The rings that the front-end has named, by index."""
        return self._service.rings

    @property
    def running(self) -> bool:
        """Whether a ring has been started and kicked."""
        return self._service.running

    # -- the loop

    def pump(self, done: Callable[[], bool], timeout: float, qmp: Qmp | None = None) -> bool:
        """Answer and serve until ``done()``; False: the time or the session was over first."""
        deadline = time.monotonic() + timeout
        while not self.over:
            if done():
                return True
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self._step(min(left, _LOOK), qmp)
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
        """Whether no message has come for so long; kicks of a busy guest do not count."""
        return time.monotonic() - self._last >= seconds

    def restart_quiet(self) -> None:
        """Count `quiet` from now on."""
        self._last = time.monotonic()

    def leave_unrecorded(self) -> None:
        """From now on messages are answered, and are not part of the recording any more."""
        self.recording.transcript = list(self.recording.transcript)
        self.recording = self._service.recording = Recording()

    def hang_up(self) -> None:
        """Close the connection, as a back-end that ends does."""
        self.wire.close()
        self.over = True

    def close_channel(self) -> None:
        """Close the back-end channel."""
        if self.channel is not None:
            self.channel.close()
            self.channel = None

    def complete_one(self) -> bool:
        """Complete the request that has been held longest; False: none is held."""
        return self._service.complete_one()

    def waiting(self) -> dict[int, int]:
        """Rings with requests for which no kick has come, and the index where each one stands."""
        return self._service.waiting()

    def mark(self, what: str) -> None:
        """Note what the script has done: the next messages are the front-end's answer to it."""
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
        self._note(message)
        try:
            self._learn(message)
            self._answer(message)
        except (WireError, BrokenPipeError) as error:
            # A front-end that takes no answer sends nothing that could be judged.
            self._end(clean=not isinstance(error, Silent))
        finally:
            message.close()

    def _end(self, *, clean: bool) -> None:
        self.over = True
        self.recording.left = self.recording.left or clean

    def _note(self, message: Message) -> None:
        self.recording.messages.append(
            Received(
                len(self.recording.messages),
                self.act,
                message.id,
                message.flags,
                message.payload,
                tuple(map(look_at, message.fds)),
                self._service.features,
                self.protocol,
                self._wants_reply(message) and self.wire.waiting,
                len(self.recording.transcript),
            )
        )

    def _learn(self, message: Message) -> None:
        """Apply what a message configures; a payload that cannot be decoded is for the cases."""
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
        """Both payloads begin with the size and the offset of what is to be mapped."""
        size, offset = struct.unpack_from("<QQ", message.payload.ljust(16, b"\0"))
        view = map_shared(message.fds[0], size, offset)
        if view is None:
            self.recording.unmapped.add(len(self.recording.messages) - 1)
        else:
            view.close()

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
        """Answer as a correct back-end does."""
        if not self._wants_reply(message):
            return
        payload, fds = self.reply_to(message)
        self.reply(message.id, payload, fds)

    def reply(
        self, number: int, payload: bytes, fds: tuple[int, ...] = (), flags: int = REPLY_FLAGS
    ) -> None:
        """Send a reply, correct or not."""
        self.wire.send(number, payload, flags=flags, fds=fds)

    def reply_to(self, message: Message) -> tuple[bytes, tuple[int, ...]]:
        """The payload and the descriptors of a correct back-end's reply."""
        return self._replies.reply_to(message)

    def close(self) -> None:
        """Close the connection, and everything that came over it, whatever fails.

        Raises:
            OSError: a descriptor had been closed already.
        """
        with contextlib.ExitStack() as owned:
            owned.callback(self._replies.close)
            owned.callback(self._service.close)
            if self.channel is not None:
                owned.callback(self.channel.close)
            owned.callback(self.wire.close)
