"""Where frames go: back to the NIC they came from, to another NIC, or out of the uplink.

Addresses are learned from the frames themselves, on both sides. The NICs of a program may be
served by threads of their own: a frame for a NIC of another thread is handed over to it.
"""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from backends import stats
from backends.server import ServerError, check_path, clear_path

if TYPE_CHECKING:
    from backends.loop import Loop
    from backends.net_device import NetDevice

#: Addresses that are remembered; then the oldest is forgotten.
MAX_ADDRESSES = 4096
LARGEST_FRAME = 65550
#: Frames that are taken from the uplink in one turn of the loop.
FRAMES_PER_TURN = 64
BROADCAST = b"\xff" * 6
_RARP = struct.Struct("!6s6sHHHBBH6s4s6s4s18x")
_GROUP = 1
T = TypeVar("T")


class Fabric:
    """What connects the NICs of a program.

    Args:
        switch: learn, and forward between NICs; else each NIC is its own loop.
    """

    def __init__(self, *, switch: bool) -> None:
        self._nics: list[NetDevice] = []
        self._inside: dict[bytes, NetDevice] = {}
        self._outside: dict[bytes, str] = {}
        self._uplink: Uplink | None = None
        self.transmit = self._switch if switch else self._loop_back
        self._switching = switch

    def attach(self, nic: NetDevice) -> None:
        """A NIC is one more port."""
        self._nics.append(nic)

    def attach_uplink(self, uplink: Uplink) -> None:
        """There is a way out."""
        self._uplink = uplink

    def announce(self, nic: NetDevice, mac: bytes) -> None:
        """Have the world learn where this address is now."""
        frame = rarp(mac)
        if self._switching:
            self._switch(nic, 0, frame)
        else:
            self._learn(nic, mac)
            self._send_out(nic, frame, None)

    def receive(self, loop: Loop, frame: bytes, address: str | None) -> None:
        """A frame came in by the uplink, in the thread of that loop, from that address."""
        if len(frame) < 14:
            return
        source = frame[6:12]
        if address and self._outside.get(source) != address:
            self._inside.pop(source, None)
            _remember(self._outside, source, address)
        nic = self._inside.get(frame[:6])
        # What is for nobody in particular goes to all, or to the first where each is alone.
        everybody = self._nics if self._switching else self._nics[:1]
        for target in everybody if nic is None else [nic]:
            self._hand(loop, target, 0, frame)

    def _loop_back(self, nic: NetDevice, pair: int, frame: bytes) -> None:
        """Mode ``loopback``: the frame comes back, unless it is for somebody outside."""
        if self._uplink is not None:
            self._learn(nic, frame[6:12])
            address = self._outside.get(frame[:6])
            if address is not None:
                self._send_out(nic, frame, address)
                return
        nic.deliver(pair, frame)

    def _switch(self, nic: NetDevice, pair: int, frame: bytes) -> None:
        """Mode ``switch``: to where the address was seen, else everywhere."""
        self._learn(nic, frame[6:12])
        destination = frame[:6]
        if not destination[0] & _GROUP:
            target = self._inside.get(destination)
            if target is not None:
                if target is not nic:
                    self._hand(nic.loop, target, pair, frame)
                return
            address = self._outside.get(destination)
            if address is not None:
                self._send_out(nic, frame, address)
                return
        for target in self._nics:
            if target is not nic:
                self._hand(nic.loop, target, pair, frame)
        self._send_out(nic, frame, None)

    def _learn(self, nic: NetDevice, source: bytes) -> None:
        if self._inside.get(source) is not nic and not source[0] & _GROUP:
            self._outside.pop(source, None)
            _remember(self._inside, source, nic)

    def _hand(self, loop: Loop, target: NetDevice, pair: int, frame: bytes) -> None:
        # A flow keeps to its pair, so that it stays in order; a NIC with fewer folds them.
        pair %= target.queue_num
        if target.loop is loop:
            target.deliver(pair, frame)
            target.publish_later()
        else:
            target.hand_over(pair, frame)

    def _send_out(self, nic: NetDevice, frame: bytes, address: str | None) -> None:
        uplink = self._uplink
        if uplink is None:
            return
        addresses = {address} if address else set(self._outside.values()) | uplink.peers
        for each in addresses:
            if not uplink.send(frame, each):
                nic.counters[stats.PACKETS_DROPPED] += 1


class Uplink:
    """A way out: a unix datagram socket, one frame for each datagram.

    This is what QEMU's ``-netdev dgram`` speaks. Frames for outside go to where their address
    was seen last; those for everybody go to everybody who was seen, and to ``peer``.

    Args:
        fabric: what it is a way out of.
        loop: the loop that reads it.
        path: its own path.
        peer: a path to send to from the start, or None.

    Raises:
        ServerError: the path cannot be had.
    """

    def __init__(self, fabric: Fabric, loop: Loop, path: str, peer: str | None = None) -> None:
        self._fabric = fabric
        self._loop = loop
        self._path = path
        self.peers = {peer} if peer else set()
        check_path(path)
        clear_path(path, socket.SOCK_DGRAM)
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            self._sock.bind(path)
        except OSError as error:
            self._sock.close()
            raise ServerError(f"{path}: cannot be an uplink: {error.strerror}") from error
        fabric.attach_uplink(self)
        loop.watch(self._sock.fileno(), self._on_frames)

    def send(self, frame: bytes, address: str) -> bool:
        """From any thread: send a frame; False when it could not be."""
        try:
            self._sock.sendto(frame, socket.MSG_DONTWAIT, address)
        except OSError:
            return False  # nobody there any more, or too slow
        return True

    def close(self) -> None:
        """Close and remove the socket; the loops have ended."""
        self._sock.close()
        Path(self._path).unlink(missing_ok=True)

    def _on_frames(self, _events: int) -> None:
        for _ in range(FRAMES_PER_TURN):
            try:
                frame, address = self._sock.recvfrom(LARGEST_FRAME)
            except BlockingIOError:
                return
            self._fabric.receive(self._loop, frame, os.fsdecode(address) if address else None)


def rarp(mac: bytes) -> bytes:
    """The frame by which a network learns where an address is: a RARP request (RFC 903)."""
    return _RARP.pack(BROADCAST, mac, 0x8035, 1, 0x0800, 6, 4, 3, mac, bytes(4), mac, bytes(4))


def _remember(table: dict[bytes, T], key: bytes, value: T) -> None:
    if len(table) >= MAX_ADDRESSES:
        table.pop(next(iter(table)), None)
    table[key] = value
