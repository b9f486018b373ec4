"""A NIC, given any frames and buffers.

Invariant: whatever frames a guest sends and whatever buffers it provides, nothing but
`FrontendError` is raised, the device is idle afterwards, memory that is no buffer is unchanged,
each page that changes is in the dirty log, and compiled functions do the same as Python.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

from backends.fabric import Fabric
from backends.net_device import NetDevice
from tests.fuzz.device import DATA, TABLE, DeviceUnderFuzz, batches, chain_of
from tests.fuzz.reader import Reader

if TYPE_CHECKING:
    from backends.loop import Loop

#: No chain reaches this far but by a wild address.
_GUARD = slice(0xC0000, 0xD0000)


def _nic(fabric: Fabric, loop: Loop | None = None) -> DeviceUnderFuzz:
    def make(loop: Loop) -> NetDevice:
        return NetDevice("fuzz", loop, 2, fabric, mac=b"\2\0\0\0\0\1", mtu=1500)

    return DeviceUnderFuzz(make, [0, 1], loop)


_alone = _nic(Fabric(switch=False))
_python = _nic(Fabric(switch=False))
_switch = Fabric(switch=True)
_sender = _nic(_switch)
_receiver = _nic(_switch, _sender.loop)


def one_input(data: bytes) -> None:
    """How (1 byte), a receive buffer's chain, a frame's chain, then guest memory at DATA."""
    reader = Reader(data)
    how = reader.number(1)
    heads = [0] * (1 + (how >> 3 & 3))
    receive, transmit = chain_of(reader), chain_of(reader)
    contents = reader.take(1 << 14)

    def give(sender: DeviceUnderFuzz, receiver: DeviceUnderFuzz) -> None:
        sender.memory[DATA : DATA + len(contents)] = contents
        guard = receiver.memory[_GUARD]
        wild = any(address + length > _GUARD.start for address, length, _ in (*receive, *transmit))
        receiver.offer(0, receive, indirect=bool(how & 1), heads=heads)
        with receiver.logged() if receiver is not sender else nullcontext():
            sender.offer(1, transmit, indirect=bool(how & 2), heads=heads)
        assert wild or receiver.memory[_GUARD] == guard, "memory beside the buffers has changed"

    if how & 4:
        give(_sender, _receiver)
        return
    give(_alone, _alone)
    with batches(enabled=False):
        give(_python, _python)
    if _overlap(receive, transmit):
        # A frame that is changed while it is copied: the copies differ, and later frames with them.
        _python.memory[:] = _alone.memory[:]
        return
    differ = _alone.differs_from(_python)
    assert not differ, differ


def _overlap(receive: list[tuple[int, int, int]], transmit: list[tuple[int, int, int]]) -> bool:
    """Whether a buffer for the frame has bytes in common with the frame, a table or the rings."""
    return any(address < TABLE + 0x1000 for address, _, _ in (*receive, *transmit)) or any(
        first < other + more and other < first + length
        for first, length, _ in receive
        for other, more, _ in transmit
    )
