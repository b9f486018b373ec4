"""A well-formed payload and the right descriptors for each row of the message table.

A message whose payload class has no entry here gets zeroes of the class's smallest size, so a new
message has its cells as soon as it has its row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from tests.hostile.front_end.peer import USER, HostileRing
from vhost_user.codec import fd_range
from vhost_user.inflight import ring_bytes
from vhost_user.message_spec import FdRule, ReplyRule
from vhost_user.messages import FRONTEND_MESSAGES
from vhost_user.messages import FrontendRequest as F
from vhost_user.payload_layout import SHAPES
from vhost_user.payloads import (
    U64,
    Config,
    Inflight,
    LogArea,
    MemoryRegion,
    MemTable,
    SingleRegion,
    VringAddr,
    VringState,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.hostile.front_end.peer import Peer
    from tests.hostile.front_end.program import Attack
    from vhost_user.message_spec import MessageSpec
    from vhost_user.payload_layout import Payload

RING_SIZE = 16
#: A second region, beside that of the ring: guest memory of 1 MiB.
SECOND = MemoryRegion(1 << 32, 1 << 20, USER + (1 << 32), 0)
LOG_BYTES = 1 << 20
_INFLIGHT_BYTES = 4 * ring_bytes(RING_SIZE)


class WellFormed(NamedTuple):
    """A message that a device may take: its payload, and the file for its descriptors."""

    payload: bytes
    file_bytes: int = 1 << 20


#: Messages whose payload is more than a ring's index.
_U64: dict[int, int] = {
    F.SET_VRING_KICK: -1,
    F.SET_VRING_CALL: -1,
    F.SET_VRING_ERR: -1,
    F.SET_STATUS: 1,
    F.NET_SET_MTU: 1500,
    F.SEND_RARP: 0x0200_0000_0001,
}
_STATES: dict[int, int] = {F.SET_VRING_NUM: RING_SIZE, F.SET_VRING_ENABLE: 1}

_PAYLOADS: dict[type[Payload], Callable[[MessageSpec, HostileRing], Payload]] = {
    U64: lambda row, ring: U64(_number(row, ring)),
    VringState: lambda row, ring: VringState(ring.index, _STATES.get(row.id, 0)),
    VringAddr: lambda _, ring: VringAddr.unpack(ring.addresses()),
    MemTable: lambda _, ring: MemTable((ring.memory.region,)),
    SingleRegion: lambda *_: SingleRegion(SECOND),
    LogArea: lambda *_: LogArea(LOG_BYTES, 0),
    Config: lambda *_: Config(0, 0, bytes(8)),
    Inflight: lambda *_: Inflight(_INFLIGHT_BYTES, 0, 4, RING_SIZE),
}


def _number(row: MessageSpec, ring: HostileRing) -> int:
    if row.id == F.SET_FEATURES:
        return ring.peer.features
    if row.id == F.SET_PROTOCOL_FEATURES:
        return ring.peer.protocol
    number = _U64.get(row.id, 0)
    return ring.index if number < 0 else number


def payload_of(row: MessageSpec, ring: HostileRing) -> bytes:
    """A payload that the device may take."""
    if not row.payload:
        return b""
    make = _PAYLOADS.get(row.payload[0])
    return bytes(SHAPES[row.payload[0]].smallest) if make is None else make(row, ring).pack()


def descriptors_of(row: MessageSpec) -> int:
    """How many descriptors the payload of `payload_of` goes with."""
    if row.fds in (FdRule.NONE, FdRule.OPTIONAL):
        return int(row.id == F.SET_LOG_BASE)
    return fd_range(row.fds, None)[1]


def file_of(row: MessageSpec, on: Attack, ring: HostileRing) -> int:
    """A descriptor that the device may take."""
    if row.id == F.SET_MEM_TABLE:
        return ring.memory.fd
    if row.id in (F.SET_VRING_KICK, F.SET_VRING_CALL, F.SET_VRING_ERR):
        return {
            F.SET_VRING_KICK: ring.kick_fd,
            F.SET_VRING_CALL: ring.call_fd,
            F.SET_VRING_ERR: ring.err_fd,
        }[F(row.id)]
    return on.memory_file(LOG_BYTES)


def well_formed(row: MessageSpec, on: Attack, ring: HostileRing) -> tuple[bytes, list[int]]:
    """A message that the device may take."""
    return payload_of(row, ring), [file_of(row, on, ring)] * descriptors_of(row)


def rows() -> list[MessageSpec]:
    """All messages of a front-end."""
    return [*FRONTEND_MESSAGES.values()]


def prepared(on: Attack, *, started: bool) -> tuple[Peer, HostileRing]:
    """A connection with memory and a ring, which may run."""
    peer = on.negotiated()
    ring = on.ring(peer, RING_SIZE)
    if started:
        ring.set_up()
        ring.kick()
    return peer, ring


def send_and_settle(peer: Peer, row: MessageSpec, payload: bytes, fds: list[int]) -> None:
    """Send it, once as it is and once for an acknowledgement, where it has no reply of its own."""
    peer.send(row.id, payload, fds)
    if row.reply is ReplyRule.ACK:
        peer.order(row.id, payload, fds)
    peer.settle()
