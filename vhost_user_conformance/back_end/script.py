"""The order of a front-end's messages as data, and the messages for a given back-end."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vhost_user.features import VHOST_USER_F_PROTOCOL_FEATURES, ProtocolFeature
from vhost_user.message_spec import ReplyRule
from vhost_user.messages import FRONTEND_MESSAGES, FrontendRequest
from vhost_user_conformance.model.device_class import DEVICE_CLASSES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

F = FrontendRequest
P = ProtocolFeature
NOTHING = P(0)
#: Rings that the guest uses, and all rings of the device: some front-ends set up both.
USED, EVERY = "used", "every"


class Step(NamedTuple):
    """One message.

    Attributes:
        id: which.
        ack: need_reply is set once REPLY_ACK was negotiated.
        barrier: where it was not, GET_FEATURES follows, whose reply serves as the acknowledgement.
        num: of SET_VRING_ENABLE and SET_STATUS.
        log: SET_FEATURES has LOG_ALL, or SET_VRING_ADDR the ring's log flag.
        unless: omitted if this protocol feature was negotiated.
    """

    id: F
    ack: bool = False
    barrier: bool = False
    num: int = 0
    log: bool = False
    unless: P = NOTHING


class Rings(NamedTuple):
    """Messages about rings: all of them for one ring, then for the next.

    Attributes:
        steps: about each ring.
        which: `USED`, `EVERY`, or their numbers.
    """

    steps: tuple[Step, ...]
    which: str | tuple[int, ...] = USED


Part = Step | Rings


class ScriptMessage(NamedTuple):
    """A message to be sent: its step, the ring that it is about, and whether it asks for an ack."""

    step: Step
    ring: int | None
    need_reply: bool


class Script(NamedTuple):
    """A front-end.

    Attributes:
        name: of the program, with its device where that matters.
        source: of the order.
        knows: protocol features that it acknowledges when they are offered.
        setup: messages after it has connected.
        start: messages that start a device.
        restart: messages that start it again on the same connection.
        stop: messages that stop it; empty if it only disconnects.
        log: messages that start logging of dirty memory.
        unlog: messages that stop it after a cancelled migration.
        requires: protocol features without which it disconnects.
        least: smallest number of rings with which it differs from other scripts.
        renews: after a stop its rings begin at 0.
        drives: the classes of device that the front-end drives by this order.
    """

    name: str
    source: str
    knows: P
    setup: tuple[Part, ...]
    start: tuple[Part, ...]
    restart: tuple[Part, ...] = ()
    stop: tuple[Part, ...] = ()
    log: tuple[Part, ...] = ()
    unlog: tuple[Part, ...] = ()
    requires: P = NOTHING
    least: int = 1
    renews: bool = False
    drives: tuple[str, ...] = tuple(DEVICE_CLASSES)

    def __str__(self) -> str:
        return self.name


def messages_of(
    parts: Sequence[Part],
    rings: Mapping[str, Sequence[int]],
    *,
    negotiated: P,
    bit_30: bool,
) -> Iterator[ScriptMessage]:
    """The messages of the parts.

    They are generated one by one: the negotiated features may change with a message.

    Args:
        parts: of a script.
        rings: the rings that the guest uses, and all rings.
        negotiated: negotiated protocol features.
        bit_30: the back-end offers protocol features.
    """
    for part in parts:
        if isinstance(part, Step):
            about: list[tuple[Step, int | None]] = [(part, None)]
        else:
            numbers = rings[part.which] if isinstance(part.which, str) else part.which
            about = [(step, ring) for ring in numbers for step in part.steps]
        for step, ring in about:
            if step.unless & negotiated or not possible(step.id, negotiated, bit_30=bit_30):
                continue
            can_ack = P.REPLY_ACK in negotiated
            yield ScriptMessage(step, ring, step.ack and can_ack)
            if step.barrier and not can_ack:
                yield ScriptMessage(Step(F.GET_FEATURES), None, need_reply=False)


def possible(number: F, negotiated: P, *, bit_30: bool) -> bool:
    """Whether a front-end may send this message with the negotiated features."""
    gate = FRONTEND_MESSAGES[number].gate
    if gate.protocol:
        return ProtocolFeature[gate.protocol] in negotiated
    return bit_30 or gate.feature != VHOST_USER_F_PROTOCOL_FEATURES


def answered(planned: ScriptMessage, negotiated: P) -> bool:
    """Whether a message has a reply of its own."""
    reply = FRONTEND_MESSAGES[planned.step.id].reply
    if reply is ReplyRule.IF_LOG_SHMFD:
        return P.LOG_SHMFD in negotiated
    return reply is ReplyRule.ALWAYS
