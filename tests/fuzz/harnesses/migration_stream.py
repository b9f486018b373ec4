"""What reads a migration stream, given any bytes.

Invariant: whatever the other side of a migration sends, what reads the stream raises nothing
but `EmuError`, and ends when the other side disconnects.
"""

from __future__ import annotations

import socket

from emu.config.vm_spec import DeviceGroup, VmSpec
from emu.errors import EmuError
from emu.machine.ram import GuestRam
from emu.migration import clocks, completion
from emu.migration.handshake import Handshake, same_clock
from emu.migration.stream import Kind, MigrationStream
from emu.migration.vmstate import load_devices
from tests.timeouts import TIMEOUT

_SPEC = VmSpec(1, 64 << 20, (DeviceGroup("blk", 1, 1),))
_ram = GuestRam(64 << 20)


def one_input(data: bytes) -> None:
    """The bytes of the stream; the source disconnects after them."""
    theirs, ours = socket.socketpair()
    with theirs:
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        theirs.setblocking(False)
        try:
            theirs.sendall(data)
        except BlockingIOError:
            ours.close()
            return
    stream = MigrationStream(ours, timeout=TIMEOUT)
    try:
        while True:
            _section(stream)
    except EmuError:
        pass
    finally:
        stream.close()


def _section(stream: MigrationStream) -> None:
    kind, count, payload = stream.receive()
    if kind is Kind.RAM:
        stream.receive_ram(_ram, count, payload)
    elif kind is Kind.HELLO:
        Handshake.accept(payload, _SPEC, "soft", None)
    elif kind is Kind.WELCOME:
        same_clock(payload)
    elif kind is Kind.DEVICES:
        load_devices(payload, [])
    elif kind is Kind.PREPARED:
        completion.receive(stream, completion.OF_SOURCE)
    elif kind is Kind.JOIN:
        clocks.receive_offset(stream)
    elif kind is Kind.COMPLETION:
        completion.exchange_at_source(stream, 0, [], lambda *_: {})
