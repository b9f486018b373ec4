"""What a row of the message table is made of: see `vhost_user.messages`."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from vhost_user.payload_layout import Payload


class FdRule(Enum):
    """How many descriptors a message carries."""

    NONE = "0"
    ONE = "1"
    OPTIONAL = "0 or 1"
    PER_REGION = "1 per region"
    UNLESS_NO_FD = "1, or 0 with bit 8 set"


class ReplyRule(Enum):
    """When a message is answered.

    With any rule, with REPLY_ACK a sender may ask for an acknowledgement of a message that
    has no reply of its own; a message that has one gets that one and no other.
    """

    ACK = "only if need_reply"
    ALWAYS = "always"
    IF_LOG_SHMFD = "with LOG_SHMFD"
    IF_POSTCOPY = "between POSTCOPY_LISTEN and POSTCOPY_END, unless the payload is a U64"


class Effect(Enum):
    """What a message changes in the session of either end.

    The value describes it for the documentation. The sessions have a method for each member,
    called as it is: `vhost_user.session.Session.effect_method`.
    """

    OFFER_FEATURES = "features offered"
    ACK_FEATURES = "features acknowledged; without bit 30 all rings are enabled"
    OFFER_PROTOCOL_FEATURES = "protocol features offered"
    ACK_PROTOCOL_FEATURES = "protocol features acknowledged"
    ENABLE_RING = "ring enabled or disabled"
    KICK_RING = "ring started"
    STOP_RING = "ring stopped"
    RESET_OWNER = "all rings disabled"
    RESET_DEVICE = "all rings stopped and disabled"
    RESET_BY_STATUS = "with 0: all rings stopped and disabled"
    BEGIN_POSTCOPY = "postcopy begins"
    END_POSTCOPY = "postcopy ends"


class Gate(NamedTuple):
    """What must have been negotiated before a message may be sent.

    Attributes:
        protocol: name of a protocol feature, or "".
        feature: number of a feature bit, or None.
        offered: it is enough that the back-end offers the feature bit.
    """

    protocol: str = ""
    feature: int | None = None
    offered: bool = False

    def __str__(self) -> str:
        if self.protocol:
            return self.protocol
        if self.feature is None:
            return "none"
        return f"feature bit {self.feature} {'offered' if self.offered else 'negotiated'}"


class MessageSpec(NamedTuple):
    """A row of the table.

    Attributes:
        payload: the types that the payload may have; none for an empty payload.
        fds: how many descriptors the message carries.
        reply: when it is answered.
        reply_payload: the types that the payload of its own reply may have; None is an empty one.
        reply_fds: how many descriptors the reply carries.
        gate: what must have been negotiated.
        effect: what the request changes in a session.
        reply_effect: what its own reply changes: at the front-end when the reply arrives, at the
            back-end when the request does.
        source: a commit, or which peer deviates; "" where the specification's text is complete.
        unsupported: why sessions do not carry this message, or "" if they do.
        id: the number on the wire, a member of `FrontendRequest` or `BackendRequest`.
        name: the name in the specification, without its ``VHOST_USER_`` prefix.
    """

    payload: tuple[type[Payload], ...] = ()
    fds: FdRule = FdRule.NONE
    reply: ReplyRule = ReplyRule.ACK
    reply_payload: tuple[type[Payload] | None, ...] = ()
    reply_fds: FdRule = FdRule.NONE
    gate: Gate = Gate()
    effect: Effect | None = None
    reply_effect: Effect | None = None
    source: str = ""
    unsupported: str = ""
    id: int = 0
    name: str = ""
