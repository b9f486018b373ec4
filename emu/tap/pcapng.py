"""The messages as a pcapng file, for Wireshark with the dissector ``vhost_user.lua``.

Blocks are those of the pcapng specification (draft-ietf-opsawg-pcapng), in the host's byte order:
a section header, an interface for each device, and a packet for each message. The link type is
LINKTYPE_USER0; a packet is `HEADER` followed by the message as it was on the wire.
"""

from __future__ import annotations

import struct
import sys
import time
from typing import TYPE_CHECKING

from emu.tap.connection import Sender
from emu.tap.message import Message
from vhost_user import codec

if TYPE_CHECKING:
    from emu.tap.reader import Record

#: Version of the header, bits (see below), descriptors, and nanoseconds since the request or 0.
HEADER = struct.Struct(">BBHQ")
VERSION = 1
#: Bits: sent by the back-end; on the back-end channel; numbers of the message are big-endian.
FROM_BACK_END, ON_CHANNEL, BIG_ENDIAN = 1, 2, 4

_LINKTYPE_USER0 = 147
_SECTION, _INTERFACE, _PACKET = 0x0A0D0D0A, 1, 6
_MAGIC = 0x1A2B3C4D
_SECTION_HEAD = struct.Struct("=IHHq")
_INTERFACE_HEAD = struct.Struct("=HHI")
_PACKET_HEAD = struct.Struct("=IIIII")
_OPTION_HEAD = struct.Struct("=HH")
# Options: of all blocks, of a section, of an interface, of a packet.
_END, _COMMENT = 0, 1
_APPLICATION = 4
_NAME, _RESOLUTION = 2, 9
_FLAGS = 2
_NANOSECONDS = b"\x09"
_INBOUND, _OUTBOUND = 1, 2


def section() -> bytes:
    """The block at the beginning of a file."""
    options = _option(_APPLICATION, b"emu tap")
    return _block(_SECTION, _SECTION_HEAD.pack(_MAGIC, 1, 0, -1) + options + _option(_END, b""))


class PcapngWriter:
    """Turns records into blocks; `section` comes before them."""

    def __init__(self) -> None:
        self._interfaces: dict[str, int] = {}
        self._new: str | None = None
        self._offset = time.time_ns() - time.monotonic_ns()

    def blocks_of(self, record: Record) -> bytes:
        """The blocks of a record; none for what is no message."""
        if not isinstance(record, Message):
            return b""
        number = self._interfaces.get(record.device)
        new, self._new = b"", None
        if number is None:
            number = self._interfaces[record.device] = len(self._interfaces)
            new, self._new = _interface(record.device), record.device
        return new + self._packet(record, number)

    def forget(self) -> None:
        """The last blocks were not written: the next ones begin with what they have introduced."""
        if self._new is not None:
            del self._interfaces[self._new]
            self._new = None

    def _packet(self, message: Message, interface: int) -> bytes:
        data = _packet_of(message)
        stamp = message.time + self._offset
        head = _PACKET_HEAD.pack(interface, stamp >> 32, stamp & 0xFFFFFFFF, len(data), len(data))
        way = _OUTBOUND if message.sender is Sender.FRONT_END else _INBOUND
        options = _option(_FLAGS, struct.pack("=I", way))
        for text in message.violations:
            options += _option(_COMMENT, text.encode())
        return _block(_PACKET, head + _padded(data) + options + _option(_END, b""))


def _packet_of(message: Message) -> bytes:
    bits = FROM_BACK_END if message.sender is Sender.BACK_END else 0
    bits |= ON_CHANNEL if message.on_channel else 0
    bits |= BIG_ENDIAN if sys.byteorder == "big" else 0
    head = HEADER.pack(VERSION, bits, message.fds, message.latency or 0)
    return head + codec.HEADER.pack(message.id, message.flags, message.size) + message.data


def _interface(device: str) -> bytes:
    options = _option(_NAME, device.encode()) + _option(_RESOLUTION, _NANOSECONDS)
    head = _INTERFACE_HEAD.pack(_LINKTYPE_USER0, 0, 0)
    return _block(_INTERFACE, head + options + _option(_END, b""))


def _option(code: int, value: bytes) -> bytes:
    return _OPTION_HEAD.pack(code, len(value)) + _padded(value)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _block(kind: int, body: bytes) -> bytes:
    size = struct.pack("=I", len(body) + 12)
    return struct.pack("=I", kind) + size + body + size
