"""A client outside of the VM that pings it: ICMP echo through real bridges.

It finds the guest by ARP, sends an echo request each millisecond to the MAC that it has learned,
and asks again when nothing has been heard for a second, as a neighbour cache does in the end.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
from typing import TYPE_CHECKING

from emu.guest.arp_icmp import (
    CLIENT_ADDRESS,
    GUEST_ADDRESS,
    Echo,
    arp_reply,
    arp_request,
)
from emu.orchestrator.network.echo import CLIENT_MAC, PERIOD_NS, EchoClient

if TYPE_CHECKING:
    from emu.orchestrator.network.namespaces import NamespaceNetwork

#: Time without an answer after which the guest's MAC is asked for anew.
FORGET_NS = 1_000_000_000
#: Time between two questions.
ASK_NS = 100_000_000
_IDENTIFIER = 0x564D
_NUMBER = struct.Struct(">Q10x")


class PingClient(EchoClient):
    """An `EchoClient` on the network of a `NamespaceNetwork`.

    Args:
        network: whose client it is.
        period_ns: time between two requests.
    """

    def __init__(self, network: NamespaceNetwork, *, period_ns: int = PERIOD_NS) -> None:
        self._mac: bytes | None = None
        self._asked_ns = 0
        self._arp = _duplicate(network.arp)
        super().__init__(_duplicate(network.ipv4), period_ns=period_ns)

    def _close(self) -> None:
        super()._close()
        self._arp.close()

    def _send(self, now: int) -> None:
        self._learn()
        heard = self._times[-1] if self._times else 0
        if now - max(heard, self._asked_ns) > (ASK_NS if self._mac is None else FORGET_NS):
            self._asked_ns = now
            self._put(self._arp, arp_request(CLIENT_MAC, CLIENT_ADDRESS, GUEST_ADDRESS))
        if self._mac is None:
            return
        number = self._sent
        self._sent += 1
        data = _NUMBER.pack(number)
        echo = Echo(
            self._mac, CLIENT_MAC, GUEST_ADDRESS, CLIENT_ADDRESS, _IDENTIFIER, number & 0xFFFF, data
        )
        self._put(self._sock, echo.pack())

    @staticmethod
    def _put(sock: socket.socket, frame: bytes) -> None:
        with contextlib.suppress(OSError):  # a full queue loses the frame, as a wire would
            sock.send(frame)

    def _learn(self) -> None:
        while select.select([self._arp], [], [], 0)[0]:
            found = arp_reply(self._arp.recv(2048))
            if found is not None and found[0] == GUEST_ADDRESS:
                self._mac = found[1]

    def _number_of(self, frame: bytes) -> int | None:
        echo = Echo.parse(frame)
        if echo is None or not echo.is_reply or echo.identifier != _IDENTIFIER:
            return None
        if echo.to != CLIENT_ADDRESS or len(echo.data) != _NUMBER.size:
            return None
        number: int = _NUMBER.unpack(echo.data)[0]
        return number


def _duplicate(fd: int) -> socket.socket:
    with socket.socket(fileno=fd) as inherited:
        copy = inherited.dup()
        inherited.detach()
    copy.setblocking(False)  # noqa: FBT003  it has no keyword
    return copy
