"""How the suite's back-end behaves in one session with a front-end."""

from __future__ import annotations

import struct
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
from vhost_user_conformance.front_end.acts import EVERYTHING, START

if TYPE_CHECKING:
    from vhost_user_conformance.front_end.recording import Recording
    from vhost_user_conformance.peer.wire import Message, Wire

P = ProtocolFeature
F = FrontendRequest
REPLY_FLAGS = VERSION | REPLY


class ScriptedSession(Protocol):
    """What a script may use of the session that it is played in (`session.Session`)."""

    @property
    def wire(self) -> Wire:
        """The connection."""

    @property
    def recording(self) -> Recording:
        """What the front-end has done so far."""

    @property
    def channel(self) -> Wire | None:
        """The back-end channel, if the front-end has given one."""

    def pump(self, done: Callable[[], bool], timeout: float) -> bool:
        """Answer and serve until ``done()``; False: the time was over first."""

    def quiet(self, seconds: float) -> bool:
        """Whether no message has come for so long."""

    def restart_quiet(self) -> None:
        """Count `quiet` from now on."""

    def waiting(self) -> dict[int, int]:
        """Rings with requests for which no kick has come, and the index where each one stands."""

    def complete_one(self) -> bool:
        """Complete the request that has been held longest; False: none is held."""

    def mark(self, what: str) -> None:
        """Note what the script has done at this place of the recording."""

    def answer(self, message: Message) -> None:
        """Answer as a correct back-end does."""

    def reply(
        self, number: int, payload: bytes, fds: tuple[int, ...] = (), flags: int = REPLY_FLAGS
    ) -> None:
        """Send a reply, correct or not."""

    def reply_to(self, message: Message) -> tuple[bytes, tuple[int, ...]]:
        """The payload and the descriptors of a correct back-end's reply."""

    def hang_up(self) -> None:
        """Close the connection, as a back-end that ends does."""

    def close_channel(self) -> None:
        """Close the back-end channel."""


#: Answers a message in place of the session.
Reaction = Callable[[ScriptedSession, "Message"], None]

COMMON_FEATURES = (
    1 << VHOST_F_LOG_ALL
    | 1 << VIRTIO_RING_F_INDIRECT_DESC
    | 1 << VIRTIO_RING_F_EVENT_IDX
    | 1 << VHOST_USER_F_PROTOCOL_FEATURES
    | 1 << VIRTIO_F_VERSION_1
)
COMMON_PROTOCOL = P.MQ | P.LOG_SHMFD | P.REPLY_ACK | P.BACKEND_REQ | P.BACKEND_SEND_FD
#: virtio 1.3, 5.2.4: a disk of 1 MiB with blocks of 512 bytes and 4 rings.
_BLK_CONFIG = (
    struct.pack("<QII", 2048, 0, 126)
    + struct.pack("<HBBI", 2, 16, 63, 512)
    + bytes(10)
    + struct.pack("<H", 4)
    + bytes(24)
)
_FS_CONFIG = b"conformance".ljust(36, b"\0") + struct.pack("<I", 1)


class Kind(NamedTuple):
    """What a back-end of one class of device offers besides what all offer."""

    features: int
    protocol: ProtocolFeature
    config: bytes


KINDS = {
    # SEG_MAX, BLK_SIZE, FLUSH, MQ
    "blk": Kind(1 << 2 | 1 << 6 | 1 << 9 | 1 << 12, P.CONFIG | P.INFLIGHT_SHMFD, _BLK_CONFIG),
    # MTU, MRG_RXBUF, CTRL_VQ, MQ, GUEST_ANNOUNCE
    "net": Kind(1 << 3 | 1 << 15 | 1 << 17 | 1 << 22 | 1 << 21, P.NET_MTU | P.RARP, b""),
    "fs": Kind(0, P.CONFIG, _FS_CONFIG),
    "": Kind(0, P.CONFIG, bytes(64)),
}


class Script(NamedTuple):
    """A session's script.

    Attributes:
        name: of it, for people.
        acts: what is done to the front-end, in this order.
        without: mask of feature bits that are not offered.
        offering: mask of feature bits that are offered besides.
        protocol_without: protocol features that are not offered, as a mask.
        protocol_offering: protocol features that are offered besides.
        queues: the answer to GET_QUEUE_NUM.
        slots: the answer to GET_MAX_MEM_SLOTS.
        refuses: id of the message that is acknowledged with 1, or 0.
        reactions: (id, what answers it).
        delay: seconds before each reply.
        idle: no ring is worked on.
        holds: requests are taken when they are kicked for, and completed only when the script's
            ``asks`` says so, or when their ring is stopped.
        calls_as_asked: calls are made only where the driver wants them, not at each completion.
        returns: the front-end may connect anew; that session is recorded, too.
        second_without: mask of feature bits that are not offered in it.
        asks: what the back-end does at `ASKED`.
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
    asks: Callable[[ScriptedSession], None] | None = None

    def features(self, device: str) -> int:
        """The feature bits that are offered."""
        return (COMMON_FEATURES | KINDS[device].features | self.offering) & ~self.without

    def protocol(self, device: str) -> int:
        """The protocol features that are offered."""
        whole = int(COMMON_PROTOCOL | KINDS[device].protocol) | self.protocol_offering
        return whole & ~self.protocol_without


#: A back-end that does everything right.
PLAIN = Script("a plain session", EVERYTHING)
#: The same with features that change a whole session, so that they are not in the plain one.
SLOTS = Script("memory slots", EVERYTHING, protocol_offering=int(P.CONFIGURE_MEM_SLOTS))
STATUS = Script("status", EVERYTHING, protocol_offering=int(P.STATUS))
RESETTING = Script("reset", EVERYTHING, protocol_offering=int(P.RESET_DEVICE))
_OCCASIONS = {
    F.GET_MAX_MEM_SLOTS: SLOTS,
    F.ADD_MEM_REG: SLOTS,
    F.REM_MEM_REG: SLOTS,
    F.SET_STATUS: STATUS,
    F.GET_STATUS: STATUS,
    F.RESET_DEVICE: RESETTING,
}


def occasion(number: int) -> Script:
    """The script of the session in which this message comes, if it comes at all."""
    return _OCCASIONS.get(F(number), PLAIN)


def refusing(number: int) -> Script:
    """A back-end that refuses this message, where it is asked for an acknowledgement."""
    return Script(f"message {number} is refused", refuses=number)
