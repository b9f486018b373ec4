"""A NIC, given any frames and buffers.

Invariant: whatever frames a guest sends and whatever buffers it provides, nothing but
`FrontendError` is raised, the device is idle afterwards, and memory that is no buffer is unchanged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from backends.fabric import Fabric
from backends.net_device import NetDevice
from tests.fuzz.device import DATA, DeviceUnderFuzz, chain_of
from tests.fuzz.reader import Reader

if TYPE_CHECKING:
    from backends.loop import Loop

#: No chain reaches this far but by a wild address.
_GUARD = slice(0xC0000, 0xD0000)


def _make(loop: Loop) -> NetDevice:
    return NetDevice("fuzz", loop, 2, Fabric(switch=False), mac=b"\2\0\0\0\0\1", mtu=1500)


_nic = DeviceUnderFuzz(_make, [0, 1])


def one_input(data: bytes) -> None:
    """How (1 byte), a receive buffer's chain, a frame's chain, then guest memory at DATA."""
    reader = Reader(data)
    how = reader.number(1)
    receive, transmit = chain_of(reader), chain_of(reader)
    contents = reader.take(1 << 14)
    _nic.memory[DATA : DATA + len(contents)] = contents
    guard = _nic.memory[_GUARD]
    wild = any(address + length > _GUARD.start for address, length, _ in (*receive, *transmit))
    _nic.offer(0, receive, indirect=bool(how & 1))
    _nic.offer(1, transmit, indirect=bool(how & 2))
    assert wild or _nic.memory[_GUARD] == guard, "memory beside the buffers has changed"
