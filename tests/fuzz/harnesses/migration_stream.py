"""What reads a migration stream, given any bytes.

Invariant: whatever the other side of a migration sends, what reads the stream raises nothing
but `EmuError`, and ends when the other side disconnects.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from devices.blk import VhostUserBlk
from emu.config.vm_spec import DeviceGroup, VmSpec
from emu.errors import EmuError
from emu.machine import vcpu_state
from emu.machine.ram import GuestRam
from emu.migration import clocks, completion
from emu.migration.clocks import RoundTrip
from emu.migration.handshake import Handshake, same_clock
from emu.migration.stream import HEADER, Kind, MigrationStream
from emu.migration.vmstate import load_devices
from tests.fuzz.reader import Reader

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_SPEC = VmSpec(1, 64 << 20, (DeviceGroup("blk", 1, 1),))
_ram = GuestRam(64 << 20)
_KINDS = list(Kind)
#: Seconds: all that the source sends is there; it reads none of the answers.
_UNREAD = 0.05
_BEFORE = (RoundTrip(1, 2, 3),)


class _Disk(VhostUserBlk):
    """A disk whose back-end has every feature."""

    def use_features(self, features: int) -> None:
        """Accept all features."""
        self.acked_features = features


_disks = [
    _Disk(f"blk{n}", range(0x1000 * n, 0x1000 * n + 8, 4), range(2 * n, 2 * n + 2)) for n in (0, 1)
]


def one_input(data: bytes) -> None:
    """Byte 0: 0 for the bytes of a stream, else `_framed`; after them the source disconnects."""
    sent = _framed(Reader(data[1:])) if data[:1] not in (b"", b"\0") else data[1:]
    theirs, ours = socket.socketpair()
    with theirs:
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        theirs.setblocking(False)
        try:
            theirs.sendall(sent)
        except BlockingIOError:
            ours.close()
            return
        theirs.shutdown(socket.SHUT_WR)
        stream = MigrationStream(ours, timeout=_UNREAD)
        try:
            while True:
                _section(stream)
        except EmuError:
            pass
        finally:
            stream.close()


def _framed(reader: Reader) -> bytes:
    """Each section: its kind, its count (1 byte each), the length of its payload (2), and that."""
    sections = []
    while reader.left:
        kind, count = _KINDS[reader.number(1) % len(_KINDS)], reader.number(1)
        payload = reader.take(reader.number(2))
        sections.append(HEADER.pack(kind, count, len(payload)) + payload)
    return b"".join(sections)


def _section(stream: MigrationStream) -> None:
    kind, count, payload = stream.receive()
    read = _READERS.get(kind)
    if read is not None:
        read(stream, count, payload)


#: What reads the section of a kind, or what follows it. A kind without a reader of its own stands
#: for something that is read at that time.
_READERS: dict[Kind, Callable[[MigrationStream, int, bytes], object]] = {
    Kind.RAM: lambda stream, count, payload: stream.receive_ram(_ram, count, payload),
    Kind.HELLO: lambda _stream, _count, payload: Handshake.accept(payload, _SPEC, "soft", None),
    Kind.WELCOME: lambda _stream, _count, payload: same_clock(payload),
    Kind.DEVICES: lambda _stream, _count, payload: load_devices(payload, _disks),
    Kind.READY: lambda _stream, count, payload: vcpu_state.unpack(payload, count),
    Kind.PREPARED: lambda stream, *_: completion.receive(stream, completion.OF_SOURCE),
    Kind.JOIN: lambda stream, *_: clocks.receive_offset(stream),
    Kind.PING: lambda stream, *_: clocks.answer(stream, 2),
    Kind.PONG: lambda stream, *_: clocks.estimate(clocks.probe(stream, 2), 1),
    Kind.RUNNING: lambda stream, *_: _exchange(stream, _BEFORE),
    Kind.COMPLETION: lambda stream, *_: _exchange(stream, ()),
    Kind.FAILED: lambda stream, *_: stream.receive_failure(),
}


def _exchange(stream: MigrationStream, before: Sequence[RoundTrip]) -> None:
    completion.exchange_at_source(stream, 0, before, lambda *_: {})
