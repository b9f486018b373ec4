"""The protocol's state machine, for both ends. No I/O.

A session tracks what has been negotiated, which messages that allows, which replies are due, and
the state of each ring. `vhost_user.frontend_session` encodes requests and decodes replies;
`vhost_user.backend_session` decodes requests and encodes replies. This module has what both need.
The caller transfers bytes and descriptors between a session and its socket.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, cast

from vhost_user.codec import Form, close_all, reply_forms, request_forms
from vhost_user.errors import UsageError
from vhost_user.features import VHOST_USER_F_PROTOCOL_FEATURES, Dialect, ProtocolFeature
from vhost_user.message_spec import Effect, FdRule, Gate, MessageSpec, ReplyRule
from vhost_user.messages import FrontendRequest, frontend_messages
from vhost_user.payloads import MAX_RINGS, U64, VRING_INDEX_MASK, VringAddr, VringState
from vhost_user.states import AFTER, Ring, RingEvent, RingState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from vhost_user.codec import Frame
    from vhost_user.payload_layout import Payload
    from vhost_user.tracing import TraceEvent

#: The acknowledgement of success.
SUCCESS = U64(0)
_NAME_A_RING = (VringState, VringAddr)
_PROTOCOL_BIT = 1 << VHOST_USER_F_PROTOCOL_FEATURES

#: The effects on the ring that a `VringState` names: the event if its number is 0, and if not.
_RING_EVENTS: dict[Effect, tuple[RingEvent, RingEvent]] = {
    Effect.ENABLE_RING: (RingEvent.DISABLE, RingEvent.ENABLE),
    Effect.KICK_RING: (RingEvent.KICK, RingEvent.KICK),
    Effect.STOP_RING: (RingEvent.GET_VRING_BASE, RingEvent.GET_VRING_BASE),
}


class _Tables(NamedTuple):
    """The message table of a dialect, in the forms that sessions use.

    Attributes:
        rows: the table's rows, by message id.
        requests, replies: how requests and replies are decoded, by message id.
    """

    rows: dict[int, MessageSpec]
    requests: dict[int, Form]
    replies: dict[int, Form]


#: By the dialect's name: all sessions of a dialect share its tables.
_TABLES: dict[str, _Tables] = {}


def _tables(dialect: Dialect) -> _Tables:
    if dialect.name not in _TABLES:
        rows = frontend_messages(dialect)
        _TABLES[dialect.name] = _Tables(rows, request_forms(rows), reply_forms(rows))
    return _TABLES[dialect.name]


def ring_of(payload: Payload | None, fd_rule: FdRule) -> int | None:
    """The index of the ring that a message's payload names, or None."""
    if isinstance(payload, _NAME_A_RING):
        return payload.ring
    if fd_rule is FdRule.UNLESS_NO_FD and isinstance(payload, U64):
        return payload.value & VRING_INDEX_MASK
    return None


class AllowedMessage:
    """A message that the session allows in its current state: its row, evaluated in that state.

    A session makes one when the message first occurs, and uses it until its state changes.

    Attributes:
        id, name, fds: of the row.
        payload_types: classes that the request's payload may have.
        own_reply: the message has a reply of its own, not only an acknowledgement.
        no_reply_payload: a request with a payload of this class has no reply of its own after all.
        reply_types: classes that the payload of the reply or acknowledgement may have.
        reply_fds: how many descriptors the reply or acknowledgement carries.
        answer_types, answer_fds: those in any state. A back-end answers later, and messages that
            came with the request may have changed the state since.
        names_ring: the payload names a ring.
        effect: applies the request's effect to the session, or None.
        reply_effect: applies the effect of the reply to the session, or None.
        ring_effect: the effect that a request, or its reply, has on the ring that it names.
    """

    __slots__ = (
        "answer_fds",
        "answer_types",
        "effect",
        "fds",
        "id",
        "name",
        "names_ring",
        "no_reply_payload",
        "own_reply",
        "payload_types",
        "reply_effect",
        "reply_fds",
        "reply_types",
        "ring_effect",
    )

    def __init__(self, row: MessageSpec, *, own_reply: bool) -> None:
        self.effect: Callable[..., None] | None = None
        self.reply_effect: Callable[..., None] | None = None
        effect = row.effect or row.reply_effect
        self.ring_effect = effect if effect in _RING_EVENTS else None
        self.id = cast("FrontendRequest", row.id)
        self.name = row.name
        self.fds = row.fds
        self.own_reply = own_reply
        self.no_reply_payload = U64 if own_reply and row.reply is ReplyRule.IF_POSTCOPY else None
        self.payload_types: frozenset[type] = frozenset(row.payload or (type(None),))
        self.reply_types: frozenset[type] = frozenset(
            (kind or type(None)) for kind in (row.reply_payload if own_reply else (U64,))
        )
        self.reply_fds = row.reply_fds if own_reply else FdRule.NONE
        self.answer_types, self.answer_fds = self.reply_types, self.reply_fds
        if row.reply in (ReplyRule.IF_POSTCOPY, ReplyRule.IF_LOG_SHMFD):
            self.answer_types = frozenset(kind or type(None) for kind in (*row.reply_payload, U64))
            self.answer_fds = row.reply_fds
        self.names_ring = bool(self.payload_types & {VringState, VringAddr}) or (
            row.fds is FdRule.UNLESS_NO_FD
        )


class SessionState(NamedTuple):
    """The state of a session, with which another process can continue on the same socket.

    Attributes:
        offered_features, features: the attributes of `Session`.
        offered_protocol_features, protocol_features: likewise, as integers.
        rings: the `RingState` of each ring, as an integer, up to the last ring that is started or
            enabled.
    """

    offered_features: int | None
    features: int | None
    offered_protocol_features: int
    protocol_features: int
    rings: tuple[int, ...]


class Session:
    """What the sessions of both ends have in common: features, allowed messages, ring states.

    Attributes:
        name: name of the device.
        dialect: the numbers of features and messages where implementations differ.
        offered_features: feature bits that the back-end offers, or None while they are not known.
        features: feature bits that SET_FEATURES acknowledged, or None before it.
        offered_protocol_features: protocol features that the back-end offers.
        protocol_features: those that SET_PROTOCOL_FEATURES acknowledged.
        rings: the state of each ring, by index. No message reports a kick on an eventfd: a ring is
            started here only if the caller reports the kick (`kicked`).
    """

    def __init__(self, name: str, rings: int, dialect: Dialect) -> None:
        if not 1 <= rings <= MAX_RINGS:
            raise UsageError(f"{rings} rings: a message can index {MAX_RINGS}", device=name)
        self.name = name
        self.dialect = dialect
        self.offered_features: int | None = None
        self.features: int | None = None
        self.offered_protocol_features = ProtocolFeature(0)
        self.protocol_features = ProtocolFeature(0)
        self.rings = [Ring(index, name) for index in range(rings)]
        self._tables = _tables(dialect)
        # REPLY_ACK is negotiated.
        self._acks = False
        # Between POSTCOPY_LISTEN and POSTCOPY_END.
        self._postcopy = False
        # By message id; cleared when a message changes what is allowed, or what is replied to.
        self._allowed: dict[int, AllowedMessage] = {}

    def kicked(self, ring: int) -> None:
        """Record that a kick has started the ring."""
        self.rings[ring].apply(RingEvent.KICK)

    @property
    def state(self) -> SessionState:
        """The current state, for `restore` in another process."""
        states = [int(ring.state) for ring in self.rings]
        while states and not states[-1]:
            states.pop()
        return SessionState(
            self.offered_features,
            self.features,
            int(self.offered_protocol_features),
            int(self.protocol_features),
            tuple(states),
        )

    def restore(self, state: SessionState) -> None:
        """Continue with the state of another session with the same peer.

        Raises:
            UsageError: the state has more rings than this session.
        """
        if len(state.rings) > len(self.rings):
            raise UsageError(f"{len(state.rings)} rings, not {len(self.rings)}", device=self.name)
        self.offered_features, self.features = state.offered_features, state.features
        self.offered_protocol_features = ProtocolFeature(state.offered_protocol_features)
        self.protocol_features = ProtocolFeature(state.protocol_features)
        self._acks = ProtocolFeature.REPLY_ACK in self.protocol_features
        self._allowed.clear()
        for ring, bits in zip(self.rings, state.rings, strict=False):
            ring.state = RingState(bits)

    def why_not_allowed(self, row: MessageSpec) -> str:
        """Why the message may not be sent, or "" if it may."""
        if row.unsupported:
            return row.unsupported
        gate = row.gate
        if gate.protocol:
            mask = self.dialect.protocol_feature(gate.protocol)
            negotiated = mask is not None and mask in self.protocol_features
            return "" if negotiated else f"needs protocol feature {gate.protocol}, not negotiated"
        if gate.feature is None or (self._gate_features(gate) >> gate.feature) & 1:
            return ""
        return f"needs {gate}"

    def _gate_features(self, gate: Gate) -> int:
        bits = self.offered_features if gate.offered else self.features
        return bits or 0

    def _allow(self, row: MessageSpec) -> AllowedMessage:
        """Evaluate a row in the current state, without the check of its gate."""
        own_reply = row.reply is ReplyRule.ALWAYS or (
            row.reply is ReplyRule.IF_LOG_SHMFD
            and ProtocolFeature.LOG_SHMFD in self.protocol_features
        )
        own_reply = own_reply or (row.reply is ReplyRule.IF_POSTCOPY and self._postcopy)
        allowed = self._allowed[row.id] = AllowedMessage(row, own_reply=own_reply)
        self._bind_effects(allowed, row)
        return allowed

    def _bind_effects(self, allowed: AllowedMessage, row: MessageSpec) -> None:
        if row.effect is not None:
            allowed.effect = self.effect_method(row.effect)

    def effect_method(self, effect: Effect) -> Callable[..., None]:
        """The method that an effect names: ``_kick_ring`` for `Effect.KICK_RING`.

        It takes the payload that the message has by the table: the decoder, or `prepare`, has
        checked its class.
        """
        method: Callable[..., None] = getattr(self, f"_{effect.name.lower()}")
        return method

    def _apply_to_all_rings(self, event: RingEvent) -> None:
        for ring in self.rings:
            ring.apply(event)

    def _apply_to_named_rings(self, effect: Effect, states: Iterable[tuple[int, ...]]) -> None:
        """The effect of a run of messages, each with a `VringState`; nothing is traced."""
        rings = self.rings
        if_zero, otherwise = (AFTER[event] for event in _RING_EVENTS[effect])
        for index, num in states:
            ring = rings[index]
            ring.state = (otherwise if num else if_zero)[ring.state]

    def _ack_features(self, payload: U64) -> None:
        self.features = payload.value
        self._allowed.clear()
        if not self.features & _PROTOCOL_BIT:
            self._apply_to_all_rings(RingEvent.PLAIN_FEATURES)

    def _ack_protocol_features(self, payload: U64) -> None:
        self.protocol_features = ProtocolFeature(payload.value)
        self._acks = ProtocolFeature.REPLY_ACK in self.protocol_features
        self._allowed.clear()

    def _enable_ring(self, payload: VringState) -> None:
        ring, num = payload
        self.rings[ring].apply(RingEvent.ENABLE if num else RingEvent.DISABLE)

    def _kick_ring(self, payload: VringState) -> None:
        self.kicked(payload.ring)

    def _begin_postcopy(self, _payload: Payload | None) -> None:
        self._postcopy = True
        self._allowed.clear()

    def _end_postcopy(self, _payload: Payload | None) -> None:
        self._postcopy = False
        self._allowed.clear()

    def _reset_owner(self, _payload: Payload | None) -> None:
        self._apply_to_all_rings(RingEvent.RESET_OWNER)

    def _reset_device(self, _payload: Payload | None) -> None:
        self._apply_to_all_rings(RingEvent.RESET_DEVICE)

    def _reset_by_status(self, payload: U64) -> None:
        if not payload.value:
            self._apply_to_all_rings(RingEvent.STATUS_ZERO)


def trace_message(
    event: TraceEvent,
    device: str,
    allowed: AllowedMessage,
    payload: Payload | None,
    fds: Sequence[int],
) -> None:
    """Emit the trace event of a message that this end sends or receives."""
    event.emit(
        device=device,
        ring=ring_of(payload, allowed.fds),
        message=allowed.name,
        payload=None if payload is None else repr(payload).replace(", ", ","),
        fds=len(fds) or None,
    )


def discard(frames: Iterable[Frame]) -> None:
    """Close the descriptors of messages that are not processed."""
    for frame in frames:
        close_all(frame.fds)
