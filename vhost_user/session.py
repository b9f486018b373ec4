"""The protocol's state machine, for both ends. No I/O.

A session tracks what has been negotiated, which messages that allows, which answers are due, and
the state of each ring. `FrontendSession` turns requests into bytes and bytes into replies;
`BackendSession` turns bytes into requests and answers into bytes. The caller transfers bytes and
descriptors between them.
"""

from __future__ import annotations

import struct
from collections import deque
from typing import TYPE_CHECKING, NamedTuple, NoReturn, cast

from vhost_user.agreement import Opened, Session, ring_of
from vhost_user.codec import (
    NEED_REPLY,
    REPLY,
    REPLY_FLAGS,
    REQUEST_FLAGS,
    VERSION,
    Decoder,
    Frame,
    close_all,
    encode,
    fd_range,
)
from vhost_user.errors import BackendError, FrontendError, Refused, UsageError
from vhost_user.features import SPEC, Dialect, ProtocolFeature, missing_dependencies
from vhost_user.message_spec import FdRule, Gate
from vhost_user.messages import FrontendRequest, Reply, Request
from vhost_user.payloads import MAX_RINGS, U64, Payload, PayloadError, VringState
from vhost_user.states import RingEvent
from vhost_user.trace_events import BACKEND_READ, BACKEND_WRITE, READ, WRITE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from vhost_user.message_spec import MessageSpec
    from vhost_user.tracing import TraceEvent

__all__ = ["BackendSession", "FrontendSession", "Message", "Session"]

_F = FrontendRequest
_SUCCESS = U64(0)
_U32 = struct.Struct("<I")


class Message(NamedTuple):
    """An encoded request.

    Attributes:
        request: the request; its descriptors must stay open until it has been sent.
        data: its bytes.
        opened: what the session has of the message's row.
        answered: a reply, or an acknowledgement, is due for it.
    """

    request: Request
    data: bytes
    opened: Opened
    answered: bool

    def with_num(self, num: int) -> Message:
        """The same message with another number in its vring state, which is the payload's end.

        A base that is known late costs a copy, and not all the checks again.

        Raises:
            struct.error: the number has more than 32 bits.
        """
        request, data, opened, answered = self
        number, payload, fds, need_reply = request
        state = VringState(cast("VringState", payload).ring, num)
        changed = Request(number, state, fds, need_reply)
        return Message(changed, data[: -_U32.size] + _U32.pack(num), opened, answered)


class FrontendSession(Session):
    """The front-end's session: requests to bytes, bytes to replies.

    Args:
        name: name of the device, for errors.
        rings: how many rings it may have.
        dialect: how it numbers features and messages that are not settled.
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
        self._expected: deque[tuple[Opened, Request]] = deque()
        self._decoder = Decoder(self._tables.replies, REPLY_FLAGS, BackendError, name)

    @property
    def outstanding(self) -> int:
        """Replies that are due and have not arrived."""
        return len(self._expected)

    @property
    def awaited(self) -> Request | None:
        """The request whose reply is due next, or None."""
        return self._expected[0][1] if self._expected else None

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
        opened = self._open.get(number) or self._admit(number)
        answered = opened.own and payload.__class__ is not opened.mute
        flags = VERSION
        if need_reply and not answered and self._acks:
            answered = True
            flags = VERSION | NEED_REPLY
        if payload.__class__ not in opened.kinds:
            self._misuse(opened, f"takes no {payload.__class__.__name__} as its payload")
        try:
            data = encode(number, flags, payload)
        except PayloadError as error:
            self._misuse(opened, str(error))
        if opened.indexed:
            self._check_ring(opened, payload)
        if fds or opened.fds is not FdRule.NONE:
            least, most = fd_range(opened.fds, payload)
            if not least <= len(fds) <= most:
                self._misuse(opened, f"takes {opened.fds.value} descriptors, not {len(fds)}")
        return Message(request, data, opened, answered)

    def begin(self, messages: Iterable[Message]) -> list[tuple[bytes, tuple[int, ...]]]:
        """The messages are being sent: from now on their replies are due.

        Returns:
            The writes that send them: bytes and descriptors. Descriptors belong to the first byte
            of a write, so a message with descriptors begins a new write.
        """
        if WRITE.enabled:
            messages = list(messages)
            for request, _, opened, _ in messages:
                _trace(WRITE, self.name, opened, request.payload, request.fds)
        expect = self._expected.append
        writes: list[tuple[bytes, tuple[int, ...]]] = []
        parts: list[bytes] = []
        fds: tuple[int, ...] = ()
        for request, data, opened, answered in messages:
            if opened.effect is not None:
                opened.effect(request.payload)
            if answered:
                expect((opened, request))
            if request.fds:
                if parts:
                    writes.append((b"".join(parts), fds))
                parts, fds = [], request.fds
            parts.append(data)
        if parts:
            writes.append((b"".join(parts), fds))
        return writes

    def encode(self, request: Request) -> bytes:
        """`prepare` and `begin`: the bytes of a request that is sent now."""
        message = self.prepare(request)
        self.begin([message])
        return message.data

    def feed(self, data: bytes, fds: Sequence[int] = ()) -> list[Reply]:
        """The replies that are complete now, in order. Their descriptors are the caller's to close.

        Raises:
            BackendError: the back-end broke the protocol; `Refused`: it acknowledged a request
                with a non-zero code (the stream stays usable; replies of the same call are lost).
        """
        frames = self._decoder.feed(data, fds)
        refusal: Refused | None = None
        replies: list[Reply] = []
        make: Callable[[type[Reply], tuple[object, ...]], Reply] = tuple.__new__
        try:
            expected = self._expected
            for frame in frames:
                number, _, payload, came = frame
                if not expected:
                    self._unasked(frame)
                opened, request = expected.popleft()
                if READ.enabled:
                    _trace(READ, self.name, opened, payload, came)
                if number != opened.id or payload.__class__ not in opened.reply:
                    self._mismatch(frame, opened)
                if opened.own and request.payload.__class__ is not opened.mute:
                    if opened.reply_effect is not None:
                        opened.reply_effect(request, payload)
                else:
                    if came:
                        self._blame("acknowledged with descriptors", opened.name)
                    if payload != _SUCCESS and self._refusals_raise:
                        refusal = refusal or self._refused(request, payload)
                replies.append(make(Reply, (opened.id, payload, came)))
            if refusal:
                raise refusal
        except BackendError as error:
            if error is not refusal:
                self.abandon()
            _discard(frames)
            raise
        return replies

    def abandon(self) -> None:
        """Do not read from the peer any more."""
        self._decoder.abandon()
        self._expected.clear()

    def _unasked(self, frame: Frame) -> NoReturn:
        name = self._tables.rows[frame.id].name
        self._blame("answered without a request", name)

    def _mismatch(self, frame: Frame, opened: Opened) -> NoReturn:
        """Raise: the frame is not the reply that is due."""
        name = self._tables.rows[frame.id].name
        if frame.id != opened.id:
            self._blame(f"answered where the reply to {opened.name} is due", name)
        self._blame(f"answered with {frame.payload!r}", name)

    def _stop_ring(self, request: Request, payload: Payload | None) -> None:
        asked, answered = cast("VringState", request.payload), cast("VringState", payload)
        if asked.ring != answered.ring:
            self._blame(f"answered for ring {answered.ring}", "GET_VRING_BASE", asked.ring)
        self.rings[asked.ring].apply(RingEvent.GET_VRING_BASE)

    def _offer_features(self, _request: Request, payload: Payload | None) -> None:
        self.offered_features = cast("U64", payload).value
        self._open.clear()

    def _offer_protocol_features(self, _request: Request, payload: Payload | None) -> None:
        self.offered_protocol_features = ProtocolFeature(cast("U64", payload).value)

    def _refused(self, request: Request, payload: Payload | None) -> Refused:
        name = self._tables.rows[request.id].name
        error = Refused(cast("U64", payload).value, device=self.name, message=name)
        error.ring = ring_of(request.payload, self._tables.rows[request.id].fds)
        return error

    def _bind_effects(self, opened: Opened, row: MessageSpec) -> None:
        super()._bind_effects(opened, row)
        if row.reply_effect is not None:
            opened.reply_effect = self.effect_method(row.reply_effect)

    def _admit(self, number: int) -> Opened:
        row = self._tables.rows.get(number)
        if row is None:
            raise UsageError(f"there is no message with id {number}", device=self.name)
        why = self.why_not_allowed(row)
        if why:
            raise UsageError(why, device=self.name, message=row.name)
        return self._opened(row)

    def _check_ring(self, opened: Opened, payload: Payload | None) -> None:
        ring = ring_of(payload, opened.fds)
        if ring is None or ring >= len(self.rings):
            self._misuse(opened, f"there are {len(self.rings)} rings", ring)

    def _misuse(self, opened: Opened, text: str, ring: int | None = None) -> NoReturn:
        raise UsageError(text, device=self.name, ring=ring, message=opened.name)

    def _blame(self, text: str, message: str, ring: int | None = None) -> NoReturn:
        raise BackendError(text, device=self.name, ring=ring, message=message)


class BackendSession(Session):
    """The back-end's session: bytes to requests, answers to bytes.

    Args:
        name: name of the device, for errors.
        features: feature bits that the device offers.
        protocol_features: protocol features that it offers.
        num_queues: rings that it has.
        dialect: how it numbers features and messages that are not settled.

    Raises:
        UsageError: a protocol feature is offered without one that it needs.
    """

    def __init__(
        self,
        name: str,
        *,
        features: int,
        protocol_features: ProtocolFeature,
        num_queues: int,
        dialect: Dialect = SPEC,
    ) -> None:
        super().__init__(name, num_queues, dialect)
        for feature, lacks in missing_dependencies(protocol_features).items():
            raise UsageError(f"offers {feature!r} without {lacks!r}", device=name)
        self.offered_features: int = features
        self.offered_protocol_features = protocol_features
        self._decoder = Decoder(self._tables.requests, REQUEST_FLAGS, FrontendError, name)

    @property
    def partial(self) -> bool:
        """The stream is in the middle of a request."""
        return self._decoder.partial

    def feed(self, data: bytes, fds: Sequence[int] = ()) -> list[Request]:
        """The requests that are complete now, each allowed by what was negotiated before it.

        Their effects on the session (features, ring states) have taken place when this returns.
        `Request.need_reply` is set when an answer is due, its own or an acknowledgement. The
        descriptors are the caller's to close.

        Raises:
            FrontendError: the front-end broke the protocol.
        """
        frames = self._decoder.feed(data, fds)
        requests: list[Request] = []
        make: Callable[[type[Request], tuple[object, ...]], Request] = tuple.__new__
        try:
            for number, flags, payload, came in frames:
                opened = self._open.get(number) or self._admit(number)
                if BACKEND_READ.enabled:
                    _trace(BACKEND_READ, self.name, opened, payload, came)
                if opened.indexed:
                    self._check_ring(opened, payload)
                own = opened.own and payload.__class__ is not opened.mute
                due = own or (self._acks and flags & NEED_REPLY != 0)
                if opened.effect is not None:
                    opened.effect(payload)
                requests.append(make(Request, (opened.id, payload, came, due)))
        except FrontendError:
            self.abandon()
            _discard(frames)
            raise
        return requests

    def abandon(self) -> None:
        """Do not read from the peer any more."""
        self._decoder.abandon()

    def answer_from_state(self, request: Request) -> U64 | None:
        """The answer if the session itself has it: features, protocol features, number of rings."""
        if request.id == _F.GET_FEATURES:
            return U64(self.offered_features)
        if request.id == _F.GET_PROTOCOL_FEATURES:
            return U64(int(self.offered_protocol_features))
        if request.id == _F.GET_QUEUE_NUM:
            return U64(len(self.rings))
        return None

    def can_refuse(self, request: Request) -> bool:
        """Whether a non-zero acknowledgement can answer it: it has no reply of its own."""
        opened = self._open.get(request.id) or self._opened(self._tables.rows[request.id])
        return not opened.own or opened.mute is not None

    def answer(
        self, request: Request, payload: Payload | None = None, fds: Sequence[int] = ()
    ) -> bytes:
        """The bytes of a request's own reply; the caller sends ``fds`` with them.

        Raises:
            UsageError: no reply is due, or the message has no such reply.
        """
        opened = self._open.get(request.id) or self._opened(self._tables.rows[request.id])
        if not request.need_reply:
            self._misuse(opened, "has no reply due")
        if payload.__class__ not in opened.reply:
            self._misuse(opened, f"is not answered by a {payload.__class__.__name__}")
        if fds:
            most = fd_range(opened.reply_fds, payload)[1]
            if len(fds) > most:
                self._misuse(opened, f"is answered with {most} descriptors, not {len(fds)}")
        if BACKEND_WRITE.enabled:
            _trace(BACKEND_WRITE, self.name, opened, payload, fds)
        try:
            return encode(request.id, VERSION | REPLY, payload)
        except PayloadError as error:
            self._misuse(opened, str(error))

    def ack(self, request: Request, code: int = 0) -> bytes:
        """The bytes of an acknowledgement, 0 for success; empty when none is due.

        Raises:
            UsageError: the message has a reply of its own that is not a U64.
        """
        if not request.need_reply:
            return b""
        return self.answer(request, U64(code) if code else _SUCCESS)

    def _bind_effects(self, opened: Opened, row: MessageSpec) -> None:
        super()._bind_effects(opened, row)
        if row.reply_effect is not None:
            opened.effect = self.effect_method(row.reply_effect)

    def _admit(self, number: int) -> Opened:
        row = self._tables.rows[number]
        why = self.why_not_allowed(row)
        if why:
            raise FrontendError(why, device=self.name, message=row.name)
        return self._opened(row)

    def _gate_features(self, gate: Gate) -> int:
        # QEMU's virtio-net enables rings before SET_FEATURES: until then what is offered counts
        acked = self.offered_features if self.features is None else self.features
        return self.offered_features if gate.offered else acked

    def _check_ring(self, opened: Opened, payload: Payload | None) -> None:
        ring = ring_of(payload, opened.fds)
        if ring is None or ring >= len(self.rings):
            self._blame(opened.name, f"there are {len(self.rings)} rings", ring)

    def _ack_features(self, payload: Payload | None) -> None:
        beyond = cast("U64", payload).value & ~self.offered_features
        if beyond:
            self._blame("SET_FEATURES", f"feature bits {beyond:#x} were not offered")
        super()._ack_features(payload)

    def _ack_protocol_features(self, payload: Payload | None) -> None:
        asked = ProtocolFeature(cast("U64", payload).value)
        beyond = asked & ~self.offered_protocol_features
        if beyond:
            self._blame("SET_PROTOCOL_FEATURES", f"bits {int(beyond):#x} were not offered")
        for feature, lacks in missing_dependencies(asked).items():
            self._blame("SET_PROTOCOL_FEATURES", f"{feature!r} without {lacks!r}")
        super()._ack_protocol_features(payload)

    def _offer_features(self, _payload: Payload | None) -> None:
        """The constructor was given what the device offers."""

    def _offer_protocol_features(self, _payload: Payload | None) -> None:
        """As `_offer_features`."""

    def _stop_ring(self, payload: Payload | None) -> None:
        self.rings[cast("VringState", payload).ring].apply(RingEvent.GET_VRING_BASE)

    def _blame(self, message: str, text: str, ring: int | None = None) -> NoReturn:
        raise FrontendError(text, device=self.name, ring=ring, message=message)

    def _misuse(self, opened: Opened, text: str) -> NoReturn:
        raise UsageError(text, device=self.name, message=opened.name)


def _trace(
    event: TraceEvent, device: str, opened: Opened, payload: Payload | None, fds: Sequence[int]
) -> None:
    event.emit(
        device=device,
        ring=ring_of(payload, opened.fds),
        message=opened.name,
        payload=None if payload is None else repr(payload).replace(", ", ","),
        fds=len(fds) or None,
    )


def _discard(frames: Iterable[Frame]) -> None:
    for frame in frames:
        close_all(frame.fds)
