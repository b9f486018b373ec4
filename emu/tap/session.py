"""The session of a connection that is observed: it follows both sides, and refuses nothing."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple, cast

from emu.tap.connection import Sender
from emu.tap.message import Message
from vhost_user.codec import NEED_REPLY, reply_forms, request_forms
from vhost_user.features import SPEC, ProtocolFeature
from vhost_user.message_spec import ReplyRule
from vhost_user.messages import BACKEND_MESSAGES, FrontendRequest
from vhost_user.payload_layout import PayloadError
from vhost_user.payloads import MAX_RINGS, U64, VringState
from vhost_user.session import Session, ring_of
from vhost_user.states import RingEvent, RingState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from emu.tap.framing import RawMessage
    from vhost_user.codec import Form
    from vhost_user.message_spec import Gate, MessageSpec
    from vhost_user.payload_layout import Payload
    from vhost_user.session import AllowedMessage

#: Requests without a reply that are remembered on a connection; the oldest is forgotten first.
MAX_OUTSTANDING = 4096
_CHANNEL_REQUESTS, _CHANNEL_REPLIES = request_forms(BACKEND_MESSAGES), reply_forms(BACKEND_MESSAGES)


class RingCount(NamedTuple):
    """Rings of a connection that a message has named, and how many are started and enabled."""

    known: int
    started: int
    enabled: int


class Pairing:
    """Finds the request of each reply, of one channel.

    Attributes:
        outstanding: requests whose replies are due.
    """

    def __init__(self) -> None:
        self.outstanding: deque[Message] = deque(maxlen=MAX_OUTSTANDING)

    def match(self, reply: Message) -> tuple[Message | None, Message | None]:
        """The request of a reply, and the one whose reply was due before it, each or None."""
        for number, request in enumerate(self.outstanding):
            if request.id == reply.id:
                due = self.outstanding[0] if number else None
                del self.outstanding[number]
                return request, due
        return None, self.outstanding[0] if self.outstanding else None


class ObservedSession(Session):
    """Follows what is negotiated, which replies are due, and the states of the rings.

    A kick on an eventfd is not seen: a ring counts as started from SET_VRING_KICK on, as in
    libvhost-user.

    Args:
        name: name of the connection.
        pair: name of its pair of sockets.
    """

    def __init__(self, name: str, pair: str) -> None:
        super().__init__(name, MAX_RINGS, SPEC)
        self.pair = pair
        self.main, self.channel = Pairing(), Pairing()
        self._known: set[int] = set()

    @property
    def outstanding(self) -> int:
        """Requests of the front-end whose replies are due."""
        return len(self.main.outstanding)

    @property
    def ring_count(self) -> RingCount:
        """See `RingCount`."""
        states = [self.rings[ring].state for ring in self._known]
        return RingCount(
            len(states),
            sum(1 for state in states if state & RingState.STARTED),
            sum(1 for state in states if state & RingState.ENABLED),
        )

    def row(self, message: Message) -> MessageSpec | None:
        """The row of a message in the table of its direction."""
        table: Mapping[int, MessageSpec] = (
            BACKEND_MESSAGES if message.on_channel else self._tables.rows
        )
        return table.get(message.id)

    def read(self, raw: RawMessage, sender: Sender, *, on_channel: bool) -> Message:
        """Decode a message that has arrived. Its effects have not taken place yet: see `apply`."""
        # The direction decides, not the flag, which a peer may have set wrongly.
        is_reply = sender is not (Sender.BACK_END if on_channel else Sender.FRONT_END)
        forms = self._forms(is_reply=is_reply, on_channel=on_channel)
        form = forms.get(raw.id)
        message = Message(
            raw.time, self.name, self.pair, sender, on_channel, raw.id, raw.flags, raw.payload,
            raw.fds, is_reply, form.name if form else f"message {raw.id}",
        )  # fmt: skip
        if form is None:
            message.error = "unknown"
            return message
        try:
            message.payload = form.decode(raw.payload, 0, len(raw.payload))
        except PayloadError as error:
            message.error = str(error)
        row = self.row(message)
        if row is not None and not is_reply:
            message.ring = ring_of(message.payload, row.fds)
        elif isinstance(message.payload, VringState):
            message.ring = message.payload.ring
        return message

    def apply(self, message: Message) -> Message | None:
        """Pair a reply, and let the message change the session.

        Returns:
            The request whose reply is due before this one, if this reply came out of order or
            without a request; else None.
        """
        pairing = self.channel if message.on_channel else self.main
        if message.is_reply:
            message.request, due = pairing.match(message)
            if message.request is not None and not message.on_channel:
                self._apply_reply(message, message.request)
            return due
        if message.on_channel:
            row = self.row(message)
            always = row is not None and row.reply is ReplyRule.ALWAYS
            message.acknowledged = self._acks and message.need_reply and not always
            message.reply_due = always or message.acknowledged
        else:
            self._apply_request(message)
        if message.reply_due:
            pairing.outstanding.append(message)
        return None

    def started(self, ring: int) -> bool:
        """Whether a ring is started; see the class."""
        return ring < len(self.rings) and self.rings[ring].started

    def why_gated(self, message: Message) -> str:
        """What has not been negotiated for a request, or ""."""
        row = self.row(message)
        return "" if row is None else self.why_not_allowed(row._replace(unsupported=""))

    def allowed(self, number: int) -> AllowedMessage | None:
        """The row of a front-end's message in the current state; None for an unknown one."""
        row = self._tables.rows.get(number)
        if row is None:
            return None
        return self._allowed.get(number) or self._allow(row)

    def _forms(self, *, is_reply: bool, on_channel: bool) -> Mapping[int, Form]:
        if on_channel:
            return _CHANNEL_REPLIES if is_reply else _CHANNEL_REQUESTS
        return self._tables.replies if is_reply else self._tables.requests

    def _apply_request(self, message: Message) -> None:
        allowed = self.allowed(message.id)
        acked = self._acks and bool(message.flags & NEED_REPLY)
        if allowed is None:
            message.reply_due = acked
            return
        own = allowed.own_reply and message.payload.__class__ is not allowed.no_reply_payload
        message.reply_due, message.acknowledged = own or acked, acked and not own
        if message.error or not self._note_ring(message):
            return
        if message.id == FrontendRequest.SET_VRING_KICK and message.ring is not None:
            self.kicked(message.ring)
        if allowed.effect is not None:
            allowed.effect(message.payload)

    def _apply_reply(self, message: Message, request: Message) -> None:
        allowed = self.allowed(message.id)
        if allowed is None or message.error or allowed.reply_effect is None:
            return
        if message.payload.__class__ in allowed.reply_types and not request.error:
            # Its methods here take the message that was read.
            effect = cast("Callable[[Message, Payload | None], None]", allowed.reply_effect)
            effect(request, message.payload)

    def _note_ring(self, message: Message) -> bool:
        """Remember the ring that it names; False if there can be no such ring."""
        if message.ring is None:
            return True
        if message.ring >= len(self.rings):
            return False
        self._known.add(message.ring)
        return True

    def _bind_effects(self, allowed: AllowedMessage, row: MessageSpec) -> None:
        super()._bind_effects(allowed, row)
        if row.reply_effect is not None:
            allowed.reply_effect = self.effect_method(row.reply_effect)

    def _gate_features(self, gate: Gate) -> int:
        # QEMU's virtio-net enables rings before SET_FEATURES: until then what is offered counts
        bits = self.offered_features if gate.offered or self.features is None else self.features
        return bits or 0

    def _offer_features(self, _request: object, payload: Payload | None) -> None:
        self.offered_features = cast("U64", payload).value
        self._allowed.clear()

    def _offer_protocol_features(self, _request: object, payload: Payload | None) -> None:
        self.offered_protocol_features = ProtocolFeature(cast("U64", payload).value)

    def _stop_ring(self, request: Message, _payload: Payload | None) -> None:
        if request.ring is not None and request.ring < len(self.rings):
            self.rings[request.ring].apply(RingEvent.GET_VRING_BASE)
