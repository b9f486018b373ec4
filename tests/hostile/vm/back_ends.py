"""Replies of a back-end that lie, to each message that a device is started with."""

from __future__ import annotations

import struct
import time
from functools import partial
from typing import TYPE_CHECKING

from tests.hostile.cell import ANSWER, Cell, NotOk
from tests.hostile.vm.relay import Change
from vhost_user.codec import HEADER, VERSION
from vhost_user.messages import FrontendRequest as F

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.hostile.vm.attached import Attached

#: Messages whose replies a front-end reads when it starts a device anew.
_MESSAGES = (
    F.GET_FEATURES,
    F.GET_PROTOCOL_FEATURES,
    F.GET_QUEUE_NUM,
    F.SET_MEM_TABLE,
    F.SET_VRING_ENABLE,
    F.GET_VRING_BASE,
)

#: Seconds between two stops of the VM.
_AGAIN = 0.05


def _header(reply: bytes, **fields: int) -> bytes:
    number, flags, size = HEADER.unpack_from(reply)
    right = {"number": number, "flags": flags, "size": size}
    return HEADER.pack(*{**right, **fields}.values()) + reply[HEADER.size :]


def _filled(byte: bytes, reply: bytes) -> bytes:
    return reply[: HEADER.size] + byte * (len(reply) - HEADER.size)


def _sized(by: int, reply: bytes) -> bytes:
    body = reply[HEADER.size :]
    body = body[:by] if by < 0 else body + bytes(by)
    return _header(reply, size=len(body))[: HEADER.size] + body


_LIES: dict[str, Callable[[bytes], bytes | None]] = {
    "connection closed": lambda _: None,
    "half of it": lambda reply: reply[: len(reply) // 2],
    "zeroes": partial(_filled, b"\0"),
    "ones": partial(_filled, b"\xff"),
    "0x7f": partial(_filled, b"\x7f"),
    "one byte less": partial(_sized, -1),
    "one byte more": partial(_sized, 1),
    "4096 bytes more": partial(_sized, 4096),
    "no payload": lambda reply: _header(reply, size=0)[: HEADER.size],
    "size 2^32-1": lambda reply: _header(reply, size=0xFFFF_FFFF),
    "id 0": lambda reply: _header(reply, number=0),
    "id of the next message": lambda reply: _header(reply, number=HEADER.unpack_from(reply)[0] + 1),
    "not a reply": lambda reply: _header(reply, flags=VERSION),
    "version 2": lambda reply: _header(reply, flags=2 | 4),
    "twice": lambda reply: reply * 2,
    "1000 times": lambda reply: reply * 1000,
    "noise": lambda _: bytes(range(256)) * 16,
    "text": lambda _: b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "the highest bit": lambda reply: reply[:-1] + struct.pack("B", reply[-1] ^ 0x80),
}


def cells() -> Iterator[Cell]:
    """All cells of this group."""
    for message in _MESSAGES:
        for name, make in _LIES.items():
            yield Cell(
                "hostile back-ends",
                f"reply to {message.name}",
                name,
                "attach",
                partial(_changed, Change(message, make)),
            )


def _changed(change: Change, on: Attached) -> None:
    on.relay.set_change(change)
    if change.number == F.GET_VRING_BASE:
        _stop_and_start(on)
    if not on.relay.changed.wait(ANSWER):
        raise NotOk("the front-end has not sent the message")
    on.relay.set_change(None)


def _stop_and_start(on: Attached) -> None:
    """Until the reply has been changed: the disk may have no back-end yet when the VM stops."""
    client = on.client()
    client.ask("qmp_capabilities")
    end = time.monotonic() + ANSWER
    while not on.relay.changed.wait(_AGAIN) and time.monotonic() < end:
        client.ask("stop")
        client.ask("cont")
