"""Scripts: the behaviour of the suite's back-end in one session."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol

from vhost_user.codec import REPLY, VERSION
from vhost_user.features import (
    VHOST_F_LOG_ALL,
    VHOST_USER_F_PROTOCOL_FEATURES,
    VIRTIO_F_VERSION_1,
    VIRTIO_RING_F_EVENT_IDX,
    VIRTIO_RING_F_INDIRECT_DESC,
    ProtocolFeature,
)
from vhost_user.messages import FrontendRequest
from vhost_user_conformance.front_end.acts import CONT, EVERYTHING, MIGRATE, START, STOP

if TYPE_CHECKING:
    from vhost_user_conformance.front_end.recording import Recording
    from vhost_user_conformance.model.device_class import DeviceClass
    from vhost_user_conformance.peer.wire import Message, Wire

P = ProtocolFeature
F = FrontendRequest
REPLY_FLAGS = VERSION | REPLY


class ScriptedSession(Protocol):
    """The part of a session (`session.Session`) that scripts and reactions use."""

    @property
    def wire(self) -> Wire:
        """The connection."""

    @property
    def recording(self) -> Recording:
        """The recording so far."""

    @property
    def channel(self) -> Wire | None:
        """The back-end channel, if the front-end has set one."""

    def pump(self, done: Callable[[], bool], timeout: float) -> bool:
        """Answer messages and serve rings until ``done()``. Returns False after the timeout."""

    def quiet(self, seconds: float) -> bool:
        """Whether no message has come for this time."""

    def restart_quiet(self) -> None:
        """Start the time of `quiet` again."""

    def start_serving(self) -> None:
        """Serve the rings from now on, also where the script is idle."""

    def waiting(self) -> dict[int, int]:
        """Rings with requests that have not been kicked for, and the index of the next request."""

    def complete_one(self) -> bool:
        """Complete the request that has been held longest. Returns False if none is held."""

    def mark(self, what: str) -> None:
        """Record what the script has done before the next message."""

    def answer(self, message: Message) -> None:
        """Reply as a correct back-end does."""

    def reply(
        self, number: int, payload: bytes, fds: tuple[int, ...] = (), flags: int = REPLY_FLAGS
    ) -> None:
        """Send a reply, valid or not."""

    def reply_to(self, message: Message) -> tuple[bytes, tuple[int, ...]]:
        """Payload and descriptors of a correct back-end's reply."""

    def hang_up(self) -> None:
        """Close the connection, as at the end of a back-end."""

    def close_channel(self) -> None:
        """Close the back-end channel."""


#: Replies to a message instead of the session.
Reaction = Callable[[ScriptedSession, "Message"], None]

COMMON_FEATURES = (
    1 << VHOST_F_LOG_ALL
    | 1 << VIRTIO_RING_F_INDIRECT_DESC
    | 1 << VIRTIO_RING_F_EVENT_IDX
    | 1 << VHOST_USER_F_PROTOCOL_FEATURES
    | 1 << VIRTIO_F_VERSION_1
)
COMMON_PROTOCOL = P.MQ | P.LOG_SHMFD | P.REPLY_ACK | P.BACKEND_REQ | P.BACKEND_SEND_FD


class Script(NamedTuple):
    """A session's script.

    Attributes:
        name: human-readable name.
        acts: that are done, in this order.
        without: mask of feature bits that are not offered.
        offering: mask of feature bits that are offered in addition.
        protocol_without: mask of protocol features that are not offered.
        protocol_offering: mask of protocol features that are offered in addition.
        queues: reply to GET_QUEUE_NUM.
        slots: reply to GET_MAX_MEM_SLOTS.
        refuses: id of the message that is acknowledged with 1, or 0.
        reactions: (message id, its reaction).
        delay: seconds before each reply.
        idle: no ring is served.
        holds: requests are taken when they are kicked for, and completed only by the script's
            ``asks``, or when their ring is stopped.
        calls_as_asked: the driver is called only if it requests it, not at each completion.
        returns: the front-end may reconnect; that session is recorded, too.
        second_without: mask of feature bits that are not offered in the second session.
        second_protocol_without: the same for protocol features.
        second_queues: reply to GET_QUEUE_NUM in the second session.
        asks: run at `ASKED`.
    """

    name: str
    acts: tuple[str, ...] = (START,)
    without: int = 0
    offering: int = 0
    protocol_without: int = 0
    protocol_offering: int = 0
    queues: int = 4
    slots: int = 32
    refuses: int = 0
    reactions: tuple[tuple[int, Reaction], ...] = ()
    delay: float = 0.0
    idle: bool = False
    holds: bool = False
    calls_as_asked: bool = False
    returns: bool = False
    second_without: int = 0
    second_protocol_without: int = 0
    second_queues: int = 4
    asks: Callable[[ScriptedSession], None] | None = None

    def features(self, device: DeviceClass) -> int:
        """The feature bits that are offered."""
        return (COMMON_FEATURES | device.feature_mask | self.offering) & ~self.without

    def protocol(self, device: DeviceClass) -> int:
        """The protocol features that are offered."""
        own = P(sum(ProtocolFeature[each] for each in device.protocol_features))
        return int(COMMON_PROTOCOL | own | self.protocol_offering) & ~self.protocol_without


#: A correct back-end.
PLAIN = Script("a plain session", EVERYTHING)
#: Correct back-ends with features that change a whole session, so that PLAIN does not offer them.
SLOTS = Script("memory slots", EVERYTHING, protocol_offering=int(P.CONFIGURE_MEM_SLOTS))
STATUS = Script("status", EVERYTHING, protocol_offering=int(P.STATUS))
RESETTING = Script("reset", EVERYTHING, protocol_offering=int(P.RESET_DEVICE))
SHARING = Script("shared memory regions", protocol_offering=int(P.SHMEM))
SUSPENDING = Script(
    "requests may be suspended at a stop",
    (START, STOP, CONT),
    protocol_offering=int(
        P.INFLIGHT_SHMFD | P.GET_VRING_BASE_INFLIGHT | P.GET_VRING_BASE_SKIP_DRAIN
    ),
)
#: The VM continues at a destination.
MIGRATED = Script("the VM is migrated", (START, MIGRATE))
MIGRATED_UNSERVED = MIGRATED._replace(name="the VM is migrated, nothing is served", idle=True)
_OCCASIONS = {
    F.GET_MAX_MEM_SLOTS: SLOTS,
    F.ADD_MEM_REG: SLOTS,
    F.REM_MEM_REG: SLOTS,
    F.SET_STATUS: STATUS,
    F.GET_STATUS: STATUS,
    F.RESET_DEVICE: RESETTING,
    F.GET_SHMEM_CONFIG: SHARING,
    F.GET_VRING_BASE_SKIP_DRAIN: SUSPENDING,
}


def occasion(number: int) -> Script:
    """The script of the session in which this message may be sent."""
    return _OCCASIONS.get(F(number), PLAIN)


def refusing(number: int) -> Script:
    """A back-end that acknowledges this message with 1, where need_reply is set."""
    return Script(f"message {number} is refused", refuses=number)
