"""The protocol's state machine, for both ends. No I/O.

A session tracks what has been negotiated, which messages that allows, which answers are due, and
the state of each ring. `vhost_user.frontend_session` turns requests into bytes and bytes into
replies; `vhost_user.backend_session` turns bytes into requests and answers into bytes. Here is what
both have in common. The caller transfers bytes and descriptors between them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, cast

from vhost_user.codec import Form, close_all, reply_forms, request_forms
from vhost_user.errors import UsageError
from vhost_user.features import VHOST_USER_F_PROTOCOL_FEATURES, Dialect, ProtocolFeature
from vhost_user.message_spec import Effect, FdRule, Gate, MessageSpec, ReplyRule
from vhost_user.messages import FrontendRequest, Request, frontend_messages
from vhost_user.payloads import MAX_RINGS, U64, VRING_INDEX_MASK, VringAddr, VringState
from vhost_user.states import Ring, RingEvent, RingState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from vhost_user.codec import Frame
    from vhost_user.payload_layout import Payload
    from vhost_user.tracing import TraceEvent

#: The acknowledgement of success.
SUCCESS = U64(0)
_PROTOCOL_BIT = 1 << VHOST_USER_F_PROTOCOL_FEATURES
_F = FrontendRequest


class _Tables(NamedTuple):
    """What the sessions need of a dialect's table; made once for all of them."""

    rows: dict[int, MessageSpec]
    requests: dict[int, Form]
    replies: dict[int, Form]


_TABLES: dict[str, _Tables] = {}


def _tables(dialect: Dialect) -> _Tables:
    if dialect.name not in _TABLES:
        rows = frontend_messages(dialect)
        _TABLES[dialect.name] = _Tables(rows, request_forms(rows), reply_forms(rows))
    return _TABLES[dialect.name]


def ring_of(payload: Payload | None, fds: FdRule) -> int | None:
    """The ring that a message is about, or None."""
    if isinstance(payload, VringState | VringAddr):
        return payload.ring
    if fds is FdRule.UNLESS_NO_FD and isinstance(payload, U64):
        return payload.value & VRING_INDEX_MASK
    return None


class Opened:
    """A message that may be sent in the negotiated state, with what the hot paths need of its row.

    Attributes:
        kinds: classes that its payload may have.
        own: it has a reply of its own in this state.
        mute: the class of the payload with which it has none after all, or None.
        reply: classes that the payload of its answer may have.
        indexed: its payload names a ring.
        effect: what the request changes in the session, or None.
        reply_effect: what its reply changes in the session, or None.
    """

    __slots__ = (
        "effect",
        "fds",
        "id",
        "indexed",
        "kinds",
        "mute",
        "name",
        "own",
        "reply",
        "reply_effect",
        "reply_fds",
    )

    def __init__(self, row: MessageSpec, *, own: bool) -> None:
        self.effect: Callable[[Payload | None], None] | None = None
        self.reply_effect: Callable[[Request, Payload | None], None] | None = None
        self.id = cast("FrontendRequest", row.id)
        self.name = row.name
        self.fds = row.fds
        self.own = own
        self.mute = U64 if own and row.reply is ReplyRule.IF_POSTCOPY else None
        self.kinds: frozenset[type] = frozenset(row.payload or (type(None),))
        self.reply: frozenset[type] = frozenset(
            (kind or type(None)) for kind in (row.reply_payload if own else (U64,))
        )
        self.reply_fds = row.reply_fds if own else FdRule.NONE
        self.indexed = bool(self.kinds & {VringState, VringAddr}) or (
            row.fds is FdRule.UNLESS_NO_FD
        )


class Agreed(NamedTuple):
    """What a session has negotiated: all that another process needs to use the same socket.

    Attributes:
        offered_features, features: as the session's.
        offered_protocol_features, protocol_features: the same, as numbers.
        rings: the state of each ring, as a number; rings at the end without any bit are left out.
    """

    offered_features: int | None
    features: int | None
    offered_protocol_features: int
    protocol_features: int
    rings: tuple[int, ...]


class Session:
    """The session of either end: the negotiated features, the gates, the rings.

    Attributes:
        name: name of the device.
        dialect: how it numbers features and messages that are not settled.
        offered_features: feature bits of the back-end, or None while they are not known.
        features: feature bits that SET_FEATURES acknowledged, or None before it.
        offered_protocol_features: the back-end's.
        protocol_features: those that SET_PROTOCOL_FEATURES acknowledged.
        rings: the state of each ring, by index.
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
        self._acks = False
        self._postcopy = False
        # Messages that are allowed; cleared by each negotiation.
        self._open: dict[int, Opened] = {}

    def kicked(self, ring: int) -> None:
        """A kick on the ring's eventfd has started it: no message reports that."""
        self.rings[ring].apply(RingEvent.KICK)

    @property
    def agreed(self) -> Agreed:
        """What has been negotiated so far."""
        states = [int(ring.state) for ring in self.rings]
        while states and not states[-1]:
            states.pop()
        return Agreed(
            self.offered_features,
            self.features,
            int(self.offered_protocol_features),
            int(self.protocol_features),
            tuple(states),
        )

    def restore(self, agreed: Agreed) -> None:
        """Continue with the state of another session with the same peer.

        Raises:
            UsageError: it has more rings than this one.
        """
        if len(agreed.rings) > len(self.rings):
            raise UsageError(f"{len(agreed.rings)} rings, not {len(self.rings)}", device=self.name)
        self.offered_features, self.features = agreed.offered_features, agreed.features
        self.offered_protocol_features = ProtocolFeature(agreed.offered_protocol_features)
        self.protocol_features = ProtocolFeature(agreed.protocol_features)
        self._acks = ProtocolFeature.REPLY_ACK in self.protocol_features
        self._open.clear()
        for ring, state in zip(self.rings, agreed.rings, strict=False):
            ring.state = RingState(state)

    def why_not_allowed(self, row: MessageSpec) -> str:
        """Why a message may not be sent, or ""."""
        if row.unsupported:
            return row.unsupported
        gate = row.gate
        if gate.protocol:
            mask = self.dialect.protocol_feature(gate.protocol)
            agreed = mask is not None and mask in self.protocol_features
            return "" if agreed else f"needs protocol feature {gate.protocol}, not negotiated"
        if gate.feature is None or (self._gate_features(gate) >> gate.feature) & 1:
            return ""
        return f"needs {gate}"

    def _gate_features(self, gate: Gate) -> int:
        bits = self.offered_features if gate.offered else self.features
        return bits or 0

    def _opened(self, row: MessageSpec) -> Opened:
        own = row.reply is ReplyRule.ALWAYS or (
            row.reply is ReplyRule.IF_LOG_SHMFD
            and ProtocolFeature.LOG_SHMFD in self.protocol_features
        )
        own = own or (row.reply is ReplyRule.IF_POSTCOPY and self._postcopy)
        opened = self._open[row.id] = Opened(row, own=own)
        self._bind_effects(opened, row)
        return opened

    def _bind_effects(self, opened: Opened, row: MessageSpec) -> None:
        if row.effect is not None:
            opened.effect = self.effect_method(row.effect)

    def effect_method(self, effect: Effect) -> Callable[..., None]:
        """The method that an effect names: ``_kick_ring`` for `Effect.KICK_RING`."""
        method: Callable[..., None] = getattr(self, f"_{effect.name.lower()}")
        return method

    def _apply(self, event: RingEvent) -> None:
        for ring in self.rings:
            ring.apply(event)

    def _ack_features(self, payload: Payload | None) -> None:
        self.features = cast("U64", payload).value
        self._open.clear()
        if not self.features & _PROTOCOL_BIT:
            self._apply(RingEvent.PLAIN_FEATURES)

    def _ack_protocol_features(self, payload: Payload | None) -> None:
        self.protocol_features = ProtocolFeature(cast("U64", payload).value)
        self._acks = ProtocolFeature.REPLY_ACK in self.protocol_features
        self._open.clear()

    def _enable_ring(self, payload: Payload | None) -> None:
        ring, num = cast("VringState", payload)
        self.rings[ring].apply(RingEvent.ENABLE if num else RingEvent.DISABLE)

    def _kick_ring(self, payload: Payload | None) -> None:
        self.kicked(cast("VringState", payload).ring)

    def _begin_postcopy(self, _payload: Payload | None) -> None:
        self._postcopy = True
        self._open.clear()

    def _end_postcopy(self, _payload: Payload | None) -> None:
        self._postcopy = False
        self._open.clear()

    def _reset_owner(self, _payload: Payload | None) -> None:
        self._apply(RingEvent.RESET_OWNER)

    def _reset_device(self, _payload: Payload | None) -> None:
        self._apply(RingEvent.RESET_DEVICE)

    def _reset_by_status(self, payload: Payload | None) -> None:
        if not cast("U64", payload).value:
            self._apply(RingEvent.STATUS_ZERO)


def trace_message(
    event: TraceEvent, device: str, opened: Opened, payload: Payload | None, fds: Sequence[int]
) -> None:
    """Emit the trace event of a message that this end sends or receives."""
    event.emit(
        device=device,
        ring=ring_of(payload, opened.fds),
        message=opened.name,
        payload=None if payload is None else repr(payload).replace(", ", ","),
        fds=len(fds) or None,
    )


def discard(frames: Iterable[Frame]) -> None:
    """Close the descriptors of messages that are not processed."""
    for frame in frames:
        close_all(frame.fds)
