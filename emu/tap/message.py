"""A message that the tap has read: decoded, and paired with its request."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vhost_user.codec import NEED_REPLY
from vhost_user.payloads import MemTable, SingleRegion

if TYPE_CHECKING:
    from emu.tap.connection import Sender
    from vhost_user.payload_layout import Payload

#: Fields that are numbers of something; the others are addresses, sizes and bits.
_DECIMAL = frozenset(
    {
        "ring", "num", "num_queues", "queue_size", "direction", "phase", "num_regions", "shmid",
        "perm", "type",
    }
)  # fmt: skip


@dataclass(slots=True, eq=False)
class Message:
    """One message.

    Attributes:
        time: when its last byte was read, CLOCK_MONOTONIC, nanoseconds.
        device: name of its connection.
        pair: name of the pair of sockets that the connection belongs to.
        sender: who sent it.
        on_channel: on the back-end channel.
        id, flags: of the header.
        data: the payload's bytes.
        fds: how many descriptors it had.
        name: wire name, without ``VHOST_USER_``.
        payload: decoded; None if there is none, or if it could not be decoded.
        ring: the ring that it names, or None.
        error: why it could not be decoded; empty if it could.
        reply_due: a reply or an acknowledgement is due for it.
        acknowledged: it is the latter.
        request: of a reply the request, if it was seen.
        violations: rules of the protocol that it breaks; see `emu.tap.rules`.
    """

    time: int
    device: str
    pair: str
    sender: Sender
    on_channel: bool
    id: int
    flags: int
    data: bytes
    fds: int
    is_reply: bool
    name: str
    payload: Payload | None = None
    ring: int | None = None
    error: str = ""
    reply_due: bool = False
    acknowledged: bool = False
    request: Message | None = None
    violations: list[str] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Bytes of payload."""
        return len(self.data)

    @property
    def full_name(self) -> str:
        """The name in the specification."""
        return ("VHOST_USER_BACKEND_" if self.on_channel else "VHOST_USER_") + self.name

    @property
    def need_reply(self) -> bool:
        """The header's flag."""
        return bool(self.flags & NEED_REPLY)

    @property
    def latency(self) -> int | None:
        """Nanoseconds from the request to this reply."""
        return None if self.request is None else self.time - self.request.time

    @property
    def fields(self) -> dict[str, Any]:
        """The payload's fields, in order; values are numbers, hexadecimal texts, and lists."""
        return _fields(self.payload)


def _fields(payload: Any) -> dict[str, Any]:
    if payload is None:
        return {}
    if isinstance(payload, MemTable):
        return {"regions": [_fields(region) for region in payload.regions]}
    if isinstance(payload, SingleRegion):
        return _fields(payload.region)
    return {name: _value(name, value) for name, value in payload._asdict().items()}


def _value(name: str, value: object) -> object:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, int) and name not in _DECIMAL:
        return hex(value)
    return list(value) if isinstance(value, tuple) else value
