"""The front-end's session: requests to bytes, bytes to replies. No I/O."""

from __future__ import annotations

from collections import deque
from functools import partial
from itertools import islice, repeat
from typing import TYPE_CHECKING, Any, NoReturn, cast

from vhost_user.codec import (
    NEED_REPLY,
    REPLY_FLAGS,
    VERSION,
    Decoder,
    Frame,
    FrameRun,
    encode,
    fd_range,
    maker,
)
from vhost_user.errors import BackendError, Refused, UsageError
from vhost_user.features import SPEC, Dialect, ProtocolFeature
from vhost_user.message_spec import Effect, FdRule
from vhost_user.messages import Reply, Request
from vhost_user.payload_layout import Payload, PayloadError
from vhost_user.payloads import MAX_RINGS
from vhost_user.prepared import Batch, Message
from vhost_user.session import SUCCESS, AllowedMessage, Session, discard, ring_of, trace_message
from vhost_user.states import RingEvent
from vhost_user.trace_events import READ, RING_STATE, WRITE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from vhost_user.message_spec import MessageSpec
    from vhost_user.payloads import U64, VringState

# As the class, without the Python function that a call of it is.
_make_reply: Callable[[tuple[Any, ...]], Reply] = partial(tuple.__new__, Reply)


class FrontendSession(Session):
    """The front-end's session: requests to bytes, bytes to replies.

    Args:
        name: name of the device, for errors.
        rings: how many rings it may have.
        dialect: the numbers of features and messages where implementations differ.
        refusals_raise: a non-zero acknowledgement is raised as `Refused`; else it is returned.
    """

    def __init__(
        self,
        name: str,
        *,
        rings: int = MAX_RINGS,
        dialect: Dialect = SPEC,
        refusals_raise: bool = True,
    ) -> None:
        super().__init__(name, rings, dialect)
        self._refusals_raise = refusals_raise
        self._expected: deque[Message] = deque()
        self._decoder = Decoder(self._tables.replies, REPLY_FLAGS, BackendError, name)

    @property
    def outstanding(self) -> int:
        """Replies that are due and have not arrived."""
        return len(self._expected)

    @property
    def awaited(self) -> Request | None:
        """The request whose reply is due next, or None."""
        return self._expected[0].request if self._expected else None

    @property
    def partial(self) -> bool:
        """The stream is in the middle of a reply."""
        return self._decoder.partial

    def prepare(self, request: Request) -> Message:
        """Encode a request. This changes nothing in the session: `begin` does, when it is sent.

        ``need_reply`` is dropped where REPLY_ACK was not negotiated, and where the message has a
        reply of its own.

        Raises:
            UsageError: the session does not allow the message, or payload or descriptors do not
                fit it.
        """
        number, payload, fds, need_reply = request
        allowed = self._allowed.get(number) or self._admit(number)
        answered = allowed.own_reply and payload.__class__ is not allowed.no_reply_payload
        flags = VERSION
        if need_reply and not answered and self._acks:
            answered = True
            flags = VERSION | NEED_REPLY
        if payload.__class__ not in allowed.payload_types:
            self._misuse(allowed, f"takes no {payload.__class__.__name__} as its payload")
        try:
            data = encode(number, flags, payload)
        except PayloadError as error:
            self._misuse(allowed, str(error))
        if allowed.names_ring:
            self._check_ring(allowed, payload)
        if fds or allowed.fds is not FdRule.NONE:
            least, most = fd_range(allowed.fds, payload)
            if not least <= len(fds) <= most:
                self._misuse(allowed, f"takes {allowed.fds.value} descriptors, not {len(fds)}")
        return Message(request, data, allowed, answered)

    def begin(self, messages: Iterable[Message]) -> list[tuple[bytes, tuple[int, ...]]]:
        """The messages are being sent: from now on their replies are due.

        Returns:
            The writes that send them, as `Batch.writes`.
        """
        batch = messages if isinstance(messages, Batch) else Batch(messages)
        if WRITE.enabled:
            for request, _, allowed, _ in batch:
                trace_message(WRITE, self.name, allowed, request.payload, request.fds)
        if batch.ring_effect is not None and not RING_STATE.enabled:
            self._apply_to_named_rings(batch.ring_effect, [state for _, state in batch.effects])
        else:
            for allowed, payload in batch.effects:
                if allowed.effect is not None:
                    allowed.effect(payload)
        self._expected.extend(batch.answered)
        return batch.writes

    def begin_one(self, message: Message) -> None:
        """As `begin`, for one message."""
        request, _, allowed, answered = message
        if WRITE.enabled:
            trace_message(WRITE, self.name, allowed, request.payload, request.fds)
        if allowed.effect is not None:
            allowed.effect(request.payload)
        if answered:
            self._expected.append(message)

    def encode(self, request: Request) -> bytes:
        """`prepare` and `begin_one`: the bytes of a request that is sent now."""
        message = self.prepare(request)
        self.begin_one(message)
        return message.data

    def feed(self, data: bytes, fds: Sequence[int] = ()) -> list[Reply]:
        """The replies that are complete now, in order. Their descriptors are the caller's to close.

        Raises:
            BackendError: the back-end broke the protocol; `Refused`: it acknowledged a request
                with a non-zero code (the stream stays usable; replies of the same call are lost).
        """
        frames: Sequence[Frame | FrameRun] = ()
        refusal: Refused | None = None
        replies: list[Reply] = []
        try:
            traced = READ.enabled or RING_STATE.enabled
            decoder = self._decoder
            frames = decoder.feed(data, fds) if traced else decoder.feed_runs(data, fds)
            for frame in frames:
                if isinstance(frame, Frame):
                    refused = self._take(frame, replies)
                    refusal = refusal or refused
                elif not self._take_run(frame, replies):
                    for single in frame.frames():
                        refused = self._take(single, replies)
                        refusal = refusal or refused
            if refusal:
                raise refusal
        except BackendError as error:
            if error is not refusal:
                self.abandon()
            discard(frame for frame in frames if isinstance(frame, Frame))
            raise
        return replies

    def _take(self, frame: Frame, replies: list[Reply]) -> Refused | None:
        """Append the reply that a frame is, and let it take effect.

        Returns:
            The error to raise, if it refuses the request.
        """
        number, _, payload, came = frame
        if not self._expected:
            self._unasked(frame)
        request, _, allowed, _ = self._expected.popleft()
        if READ.enabled:
            trace_message(READ, self.name, allowed, payload, came)
        if number != allowed.id or payload.__class__ not in allowed.reply_types:
            self._mismatch(frame, allowed)
        refused = None
        if allowed.own_reply and request.payload.__class__ is not allowed.no_reply_payload:
            if allowed.reply_effect is not None:
                allowed.reply_effect(request, payload)
        else:
            if came:
                self._blame("acknowledged with descriptors", allowed.name)
            if payload != SUCCESS and self._refusals_raise:
                refused = self._refused(request, payload)
        replies.append(_make_reply((allowed.id, payload, came)))
        return refused

    def _take_run(self, run: FrameRun, replies: list[Reply]) -> bool:
        """`_take` a run; False, without any effect, if the frames have to be taken one by one."""
        number, _, kind, payloads = run
        expected = self._expected
        allowed = expected[0].allowed if expected else None
        if allowed is None or allowed.ring_effect is not Effect.STOP_RING or number != allowed.id:
            return False
        asked = [
            request.payload[0]  # type: ignore[index]
            for request, _, row, _ in islice(expected, len(payloads))
            if row is allowed
        ]
        if asked != [fields[0] for fields in payloads]:
            return False
        for _ in payloads:
            expected.popleft()
        self._apply_to_named_rings(Effect.STOP_RING, payloads)
        states = map(maker(kind), payloads)
        replies += map(_make_reply, zip(repeat(allowed.id), states, repeat(())))
        return True

    def abandon(self) -> None:
        """Do not read from the peer any more."""
        self._decoder.abandon()
        self._expected.clear()

    def _unasked(self, frame: Frame) -> NoReturn:
        name = self._tables.rows[frame.id].name
        self._blame("answered without a request", name)

    def _mismatch(self, frame: Frame, allowed: AllowedMessage) -> NoReturn:
        """Raise: the frame is not the reply that is due."""
        name = self._tables.rows[frame.id].name
        if frame.id != allowed.id:
            self._blame(f"answered where the reply to {allowed.name} is due", name)
        self._blame(f"answered with {frame.payload!r}", name)

    def _stop_ring(self, request: Request, answered: VringState) -> None:
        asked = cast("VringState", request.payload)
        if asked.ring != answered.ring:
            name = self._tables.rows[request.id].name
            self._blame(f"answered for ring {answered.ring}", name, asked.ring)
        self.rings[asked.ring].apply(RingEvent.GET_VRING_BASE)

    def _offer_features(self, _request: Request, payload: U64) -> None:
        self.offered_features = payload.value
        self._allowed.clear()

    def _offer_protocol_features(self, _request: Request, payload: U64) -> None:
        self.offered_protocol_features = ProtocolFeature(payload.value)

    def _refused(self, request: Request, payload: Payload | None) -> Refused:
        name = self._tables.rows[request.id].name
        error = Refused(cast("U64", payload).value, device=self.name, message=name)
        error.ring = ring_of(request.payload, self._tables.rows[request.id].fds)
        return error

    def _bind_effects(self, allowed: AllowedMessage, row: MessageSpec) -> None:
        super()._bind_effects(allowed, row)
        if row.reply_effect is not None:
            allowed.reply_effect = self.effect_method(row.reply_effect)

    def _admit(self, number: int) -> AllowedMessage:
        row = self._tables.rows.get(number)
        if row is None:
            raise UsageError(f"there is no message with id {number}", device=self.name)
        why = self.why_not_allowed(row)
        if why:
            raise UsageError(why, device=self.name, message=row.name)
        return self._allow(row)

    def _check_ring(self, allowed: AllowedMessage, payload: Payload | None) -> None:
        ring = ring_of(payload, allowed.fds)
        if ring is None or ring >= len(self.rings):
            self._misuse(allowed, f"there are {len(self.rings)} rings", ring)

    def _misuse(self, allowed: AllowedMessage, text: str, ring: int | None = None) -> NoReturn:
        raise UsageError(text, device=self.name, ring=ring, message=allowed.name)

    def _blame(self, text: str, message: str, ring: int | None = None) -> NoReturn:
        raise BackendError(text, device=self.name, ring=ring, message=message)
