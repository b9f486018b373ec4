"""Forwards frames: back to the NIC they came from, to another NIC, or to the uplink.

Addresses are learned from the frames, on both sides. Each NIC of a program may be served by its own
thread: a frame for a NIC of another thread is posted to that thread.
"""

from __future__ import annotations

import logging
import os
import socket
import struct
from typing import TYPE_CHECKING, TypeVar

from backends import stats
from backends.isolation import GuardedLoop, describe
from backends.limits import FRAMES_PER_TURN, LARGEST_FRAME, MAX_ADDRESSES
from backends.server import bind

if TYPE_CHECKING:
    from backends.loop import Loop
    from backends.net_device import NetDevice

BROADCAST = b"\xff" * 6
_RARP = struct.Struct("!6s6sHHHBBH6s4s6s4s18x")
_GROUP = 1
log = logging.getLogger("backends")
T = TypeVar("T")


class Fabric:
    """What connects the NICs of a program.

    Args:
        switch: forward between NICs; otherwise a NIC's frames come back to it.
    """

    def __init__(self, *, switch: bool) -> None:
        self._nics: list[NetDevice] = []
        self._inside: dict[bytes, NetDevice] = {}
        self._outside: dict[bytes, str] = {}
        self._uplink: Uplink | None = None
        self.transmit = self._switch if switch else self._loop_back
        self._switching = switch

    def attach(self, nic: NetDevice) -> None:
        """Add a NIC as a port."""
        self._nics.append(nic)

    def attach_uplink(self, uplink: Uplink) -> None:
        """Add the uplink as a port."""
        self._uplink = uplink

    @property
    def returns_frames(self) -> bool:
        """Each frame comes back to the pair that sends it, and goes nowhere else."""
        return not self._switching and self._uplink is None

    def announce(self, nic: NetDevice, mac: bytes) -> None:
        """Announce where an address is now (RARP)."""
        frame = rarp(mac)
        if self._switching:
            self._switch(nic, 0, frame)
        else:
            self._learn(nic, mac)
            self._send_out(nic, frame, None)

    def receive(self, loop: Loop, frame: bytes, address: str | None) -> None:
        """A frame came from the uplink, in the thread of that loop, from that socket address."""
        if len(frame) < 14:
            return
        source = frame[6:12]
        if address and self._outside.get(source) != address:
            self._inside.pop(source, None)
            _remember(self._outside, source, address)
        nic = self._inside.get(frame[:6])
        # A broadcast or unknown address goes to all NICs, or to the first one in loopback mode.
        flooded = self._nics if self._switching else self._nics[:1]
        for target in flooded if nic is None else [nic]:
            self._hand(loop, target, 0, frame)

    def _loop_back(self, nic: NetDevice, pair: int, frame: bytes) -> None:
        """Mode ``loopback``: the frame comes back, unless its destination is outside."""
        if self._uplink is not None:
            self._learn(nic, frame[6:12])
            address = self._outside.get(frame[:6])
            if address is not None:
                self._send_out(nic, frame, address)
                return
        nic.deliver(pair, frame)

    def _switch(self, nic: NetDevice, pair: int, frame: bytes) -> None:
        """Mode ``switch``: to the port where the address was seen, or to all ports."""
        self._learn(nic, frame[6:12])
        destination = frame[:6]
        if not destination[0] & _GROUP:
            target = self._inside.get(destination)
            if target is not None:
                if target is not nic:
                    self._hand(nic.loop.base, target, pair, frame)
                return
            address = self._outside.get(destination)
            if address is not None:
                self._send_out(nic, frame, address)
                return
        for target in self._nics:
            if target is not nic:
                self._hand(nic.loop.base, target, pair, frame)
        self._send_out(nic, frame, None)

    def _learn(self, nic: NetDevice, source: bytes) -> None:
        if self._inside.get(source) is not nic and not source[0] & _GROUP:
            self._outside.pop(source, None)
            _remember(self._inside, source, nic)

    def _hand(self, loop: Loop, target: NetDevice, pair: int, frame: bytes) -> None:
        # A flow stays on its pair, and so in order; a NIC with fewer pairs shares them.
        pair %= target.queue_num
        if target.loop.base is loop:
            target.deliver(pair, frame)
            target.publish_later()
        else:
            target.post_frame(pair, frame)

    def _send_out(self, nic: NetDevice, frame: bytes, address: str | None) -> None:
        uplink = self._uplink
        if uplink is None:
            return
        addresses = {address} if address else set(self._outside.values()) | uplink.peers
        for each in addresses:
            if not uplink.send(frame, each):
                nic.counters[stats.PACKETS_DROPPED] += 1


class Uplink:
    """A port to the outside: a unix datagram socket, one frame in each datagram.

    A `backends.isolation.Part`: a frame that cannot be forwarded is dropped, and stderr has a line.

    QEMU's ``-netdev dgram`` has the same format. A frame for outside goes to the socket where its
    address was seen last; broadcasts go to all sockets that were seen, and to ``peer``.

    Args:
        fabric: the fabric that it is a port of.
        loop: the loop that reads it.
        path: its own path.
        peer: a path to send to from the start, or None.

    Raises:
        ServerError: there can be no socket with that path.
    """

    def __init__(self, fabric: Fabric, loop: Loop, path: str, peer: str | None = None) -> None:
        self._fabric = fabric
        self._loop = loop
        self.peers = {peer} if peer else set()
        self._sock = bind(path, socket.SOCK_DGRAM)
        self._sock.setblocking(False)  # noqa: FBT003
        fabric.attach_uplink(self)
        self.name = path
        GuardedLoop(loop, self).watch(self._sock.fileno(), self._on_frames)

    @property
    def parent(self) -> None:
        """See `Part.parent`."""

    def fail(self, error: Exception) -> None:
        """See `Part.fail`."""
        log.error("%s: %s", self.name, describe(error))

    def send(self, frame: bytes, address: str) -> bool:
        """From any thread: send a frame; False when it could not be."""
        try:
            self._sock.sendto(frame, socket.MSG_DONTWAIT, address)
        except OSError:
            return False  # no process listens there any more, or it is too slow
        return True

    def close(self) -> None:
        """Close and remove the socket; the loops have ended."""
        self._sock.close()

    def _on_frames(self, _events: int) -> None:
        for _ in range(FRAMES_PER_TURN):
            try:
                frame, address = self._sock.recvfrom(LARGEST_FRAME)
            except BlockingIOError:
                return
            self._fabric.receive(self._loop, frame, os.fsdecode(address) if address else None)


def rarp(mac: bytes) -> bytes:
    """A RARP request (RFC 903): bridges learn the port of an address from its source."""
    return _RARP.pack(BROADCAST, mac, 0x8035, 1, 0x0800, 6, 4, 3, mac, bytes(4), mac, bytes(4))


def _remember(table: dict[bytes, T], key: bytes, value: T) -> None:
    if len(table) >= MAX_ADDRESSES:
        table.pop(next(iter(table)), None)
    table[key] = value
