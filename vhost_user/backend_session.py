"""The back-end's session: bytes to requests, answers to bytes. No I/O."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, NoReturn

from vhost_user.codec import (
    NEED_REPLY,
    REPLY,
    REQUEST_FLAGS,
    VERSION,
    Decoder,
    Frame,
    FrameRun,
    encode,
    fd_range,
)
from vhost_user.errors import FrontendError, UsageError
from vhost_user.features import SPEC, Dialect, ProtocolFeature, missing_dependencies
from vhost_user.messages import FrontendRequest, Request, RequestRun
from vhost_user.payload_layout import Payload, PayloadError
from vhost_user.payloads import U64, VringState
from vhost_user.session import SUCCESS, AllowedMessage, Session, discard, ring_of, trace_message
from vhost_user.states import RingEvent
from vhost_user.trace_events import BACKEND_READ, BACKEND_WRITE, RING_STATE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from vhost_user.message_spec import Gate, MessageSpec

_F = FrontendRequest


class BackendSession(Session):
    """The back-end's session: bytes to requests, answers to bytes.

    Args:
        name: name of the device, for errors.
        features: feature bits that the device offers.
        protocol_features: protocol features that it offers.
        num_queues: rings that it has.
        dialect: the numbers of features and messages where implementations differ.

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
        try:
            self._take(frames, requests)
        except FrontendError:
            self.abandon()
            discard(frames)
            raise
        return requests

    def feed_runs(self, data: bytes, fds: Sequence[int] = ()) -> list[Request | RequestRun]:
        """As `feed`, with runs of the same message for different rings as one item.

        There are none while messages or ring states are traced.

        Raises:
            FrontendError: the front-end broke the protocol.
        """
        if BACKEND_READ.enabled or RING_STATE.enabled:
            return list(self.feed(data, fds))
        frames = self._decoder.feed_runs(data, fds)
        requests: list[Request | RequestRun] = []
        try:
            for frame in frames:
                if isinstance(frame, Frame):
                    self._take((frame,), requests)
                elif (run := self._run_of(frame)) is not None:
                    requests.append(run)
                else:
                    self._take(frame.frames(), requests)
        except FrontendError:
            self.abandon()
            discard(frame for frame in frames if isinstance(frame, Frame))
            raise
        return requests

    def _take(
        self, frames: Iterable[Frame], requests: list[Request] | list[Request | RequestRun]
    ) -> None:
        """Append the requests that these frames are, and let them take effect."""
        make: Callable[[type[Request], tuple[object, ...]], Request] = tuple.__new__
        for number, flags, payload, came in frames:
            allowed = self._allowed.get(number) or self._admit(number)
            if BACKEND_READ.enabled:
                trace_message(BACKEND_READ, self.name, allowed, payload, came)
            if allowed.names_ring:
                self._check_ring(allowed, payload)
            own_reply = allowed.own_reply and payload.__class__ is not allowed.no_reply_payload
            due = own_reply or (self._acks and flags & NEED_REPLY != 0)
            if allowed.effect is not None:
                allowed.effect(payload)
            requests.append(make(Request, (allowed.id, payload, came, due)))

    def _run_of(self, frames: FrameRun) -> RequestRun | None:
        """The run of requests, which has taken effect; None if one of them is not allowed."""
        number, flags, kind, payloads = frames
        allowed = self._allowed.get(number) or self._admit(number)
        if max(payloads)[0] >= len(self.rings):
            return None
        if allowed.ring_effect is not None:
            self._apply_to_named_rings(allowed.ring_effect, payloads)
        due = allowed.own_reply or (self._acks and flags & NEED_REPLY != 0)
        return RequestRun(allowed.id, due, kind, payloads)

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
        allowed = self._allowed.get(request.id) or self._allow(self._tables.rows[request.id])
        return not allowed.own_reply or allowed.no_reply_payload is not None

    def answer(
        self, request: Request, payload: Payload | None = None, fds: Sequence[int] = ()
    ) -> bytes:
        """The bytes of a request's own reply; the caller sends ``fds`` with them.

        Raises:
            UsageError: no reply is due, or the message has no such reply.
        """
        allowed = self._allowed.get(request.id) or self._allow(self._tables.rows[request.id])
        if not request.need_reply:
            self._misuse(allowed, "has no reply due")
        if payload.__class__ not in allowed.answer_types:
            self._misuse(allowed, f"is not answered by a {payload.__class__.__name__}")
        if fds:
            most = fd_range(allowed.answer_fds, payload)[1]
            if len(fds) > most:
                self._misuse(allowed, f"is answered with {most} descriptors, not {len(fds)}")
        if BACKEND_WRITE.enabled:
            trace_message(BACKEND_WRITE, self.name, allowed, payload, fds)
        try:
            return encode(request.id, VERSION | REPLY, payload)
        except PayloadError as error:
            self._misuse(allowed, str(error))

    def answer_states(self, run: RequestRun, numbers: Sequence[int]) -> bytes:
        """The bytes of a run's own replies: a `VringState` each, of the same rings.

        Args:
            run: the requests, to which replies are due.
            numbers: the number for each of them.

        Raises:
            UsageError: no reply is due, or the message has no such reply.
        """
        allowed = self._allowed.get(run.id) or self._allow(self._tables.rows[run.id])
        if BACKEND_WRITE.enabled or not run.need_reply or VringState not in allowed.answer_types:
            answers = zip(run.requests(), numbers, strict=True)
            return b"".join(
                self.answer(request, VringState(request.payload.ring, number))  # type: ignore[union-attr]
                for request, number in answers
            )
        words = array("I", (run.id, VERSION | REPLY, 8, 0, 0)) * len(numbers)
        words[3::5] = array("I", [fields[0] for fields in run.payloads])
        words[4::5] = array("I", numbers)
        return words.tobytes()

    def ack(self, request: Request, code: int = 0) -> bytes:
        """The bytes of an acknowledgement, 0 for success; empty when none is due.

        Raises:
            UsageError: the message has a reply of its own that is not a U64.
        """
        if not request.need_reply:
            return b""
        return self.answer(request, U64(code) if code else SUCCESS)

    def _bind_effects(self, allowed: AllowedMessage, row: MessageSpec) -> None:
        super()._bind_effects(allowed, row)
        if row.reply_effect is not None:
            allowed.effect = self.effect_method(row.reply_effect)

    def _admit(self, number: int) -> AllowedMessage:
        row = self._tables.rows[number]
        why = self.why_not_allowed(row)
        if why:
            raise FrontendError(why, device=self.name, message=row.name)
        return self._allow(row)

    def _gate_features(self, gate: Gate) -> int:
        # QEMU's virtio-net enables rings before SET_FEATURES: until then what is offered counts
        acked = self.offered_features if self.features is None else self.features
        return self.offered_features if gate.offered else acked

    def _check_ring(self, allowed: AllowedMessage, payload: Payload | None) -> None:
        ring = ring_of(payload, allowed.fds)
        if ring is None or ring >= len(self.rings):
            self._blame(allowed.name, f"there are {len(self.rings)} rings", ring)

    def _ack_features(self, payload: U64) -> None:
        beyond = payload.value & ~self.offered_features
        if beyond:
            self._blame("SET_FEATURES", f"feature bits {beyond:#x} were not offered")
        super()._ack_features(payload)

    def _ack_protocol_features(self, payload: U64) -> None:
        asked = ProtocolFeature(payload.value)
        beyond = asked & ~self.offered_protocol_features
        if beyond:
            self._blame("SET_PROTOCOL_FEATURES", f"bits {int(beyond):#x} were not offered")
        for feature, lacks in missing_dependencies(asked).items():
            self._blame("SET_PROTOCOL_FEATURES", f"{feature!r} without {lacks!r}")
        super()._ack_protocol_features(payload)

    def _offer_features(self, _payload: Payload | None) -> None:
        """The constructor's arguments are the device's offer."""

    def _offer_protocol_features(self, _payload: Payload | None) -> None:
        """As `_offer_features`."""

    def _stop_ring(self, payload: VringState) -> None:
        self.rings[payload.ring].apply(RingEvent.GET_VRING_BASE)

    def _blame(self, message: str, text: str, ring: int | None = None) -> NoReturn:
        raise FrontendError(text, device=self.name, ring=ring, message=message)

    def _misuse(self, allowed: AllowedMessage, text: str) -> NoReturn:
        raise UsageError(text, device=self.name, message=allowed.name)
