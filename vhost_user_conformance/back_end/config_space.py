"""Requests for the configuration space, and its contents."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from vhost_user_conformance.back_end.connection import BackEnd, F
from vhost_user_conformance.model.verdict import check

if TYPE_CHECKING:
    from vhost_user_conformance.peer.wire import Message

HEAD = struct.Struct("=III")
#: Flags of SET_CONFIG: the guest writes, or a migration restores the space.
GUEST, MIGRATION = 0, 1


def asked(offset: int, size: int, *, flags: int = GUEST, data: bytes | None = None) -> bytes:
    """A configuration payload; ``data`` follows its header, ``size`` zeroes by default."""
    return HEAD.pack(offset, size, flags) + (bytes(size) if data is None else data)


def refused(reply: Message) -> bool:
    """Whether a reply means that the bytes cannot be had.

    The specification has it "zero length of payload". Most back-ends send no payload at all; those
    on rust-vmm send the header, with a size of 0, and no contents.
    """
    return not reply.payload or (
        len(reply.payload) == HEAD.size and HEAD.unpack(reply.payload)[1] == 0
    )


def contents(reply: Message, offset: int, size: int) -> bytes:
    """The bytes of a reply to such a request; none if it is `refused`.

    Raises:
        Failed: the reply is neither empty nor as long as the request, or is about other bytes.
    """
    if refused(reply):
        return b""
    wanted = HEAD.size + size
    check(
        len(reply.payload) == wanted,
        f"a reply of {wanted} bytes, as the request, or an empty one",
        f"{len(reply.payload)} bytes",
    )
    at, count, _ = HEAD.unpack_from(reply.payload)
    check(
        (at, count) == (offset, size),
        f"offset {offset} and size {size} in the reply",
        f"offset {at} and size {count}",
    )
    return reply.payload[HEAD.size :]


def read(be: BackEnd, offset: int, size: int) -> bytes:
    """These bytes of the space.

    Raises:
        Failed: it does not return them.
    """
    data = contents(be.ask(F.GET_CONFIG, asked(offset, size)), offset, size)
    check(data, f"{size} bytes at offset {offset}", "an empty reply")
    return data


def whole_of(be: BackEnd) -> bytes:
    """The bytes that each device of its class has."""
    return read(be, 0, be.device_class.config_first)


def spoils_nothing(be: BackEnd, number: F, payload: bytes) -> None:
    """Send this and disconnect: the next front-end reads the same configuration."""
    be.negotiate()
    whole = whole_of(be)
    be.send(number, payload)
    again = whole_of(be.reconnect().negotiate())
    check(again == whole, whole.hex(), again.hex())
