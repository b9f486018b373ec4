"""A client outside of the VM that pings the guest: ICMP echo through bridges.

It resolves the guest's MAC by ARP, sends an ICMP echo request each millisecond, and resolves the
MAC again when there was no reply for a second, as the entry of a neighbour cache expires.
"""

from __future__ import annotations

import contextlib
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
from vhost_user.readiness import readable

if TYPE_CHECKING:
    from emu.orchestrator.network.namespaces import NamespaceNetwork

#: Nanoseconds without a reply after which the guest's MAC is resolved again.
EXPIRE_NS = 1_000_000_000
#: Nanoseconds between two ARP requests while the MAC is unknown.
ARP_PERIOD_NS = 100_000_000
_IDENTIFIER = 0x564D
_NUMBER = struct.Struct(">Q10x")


class PingClient(EchoClient):
    """An `EchoClient` on the network of a `NamespaceNetwork`.

    Args:
        network: has the client's sockets.
        period_ns: time between two requests.
    """

    def __init__(self, network: NamespaceNetwork, *, period_ns: int = PERIOD_NS) -> None:
        self._mac: bytes | None = None
        self._arp_request_ns = 0
        self._arp = _duplicate(network.arp)
        super().__init__(_duplicate(network.ipv4), period_ns=period_ns)

    def _close(self) -> None:
        super()._close()
        self._arp.close()

    def _send(self, now: int) -> None:
        self._read_arp_replies()
        last_reply = self._times[-1] if self._times else 0
        limit = ARP_PERIOD_NS if self._mac is None else EXPIRE_NS
        if now - max(last_reply, self._arp_request_ns) > limit:
            self._arp_request_ns = now
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
        with contextlib.suppress(OSError):  # a full queue drops the frame, as on a network
            sock.send(frame)

    def _read_arp_replies(self) -> None:
        while readable([self._arp], 0):
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
