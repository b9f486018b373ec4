"""The part of TCP/IP that a station needs to be found and pinged: ARP and ICMP echo.

Formats: RFC 826 (ARP), RFC 791 (IPv4), RFC 792 (ICMP). The addresses are those that RFC 5737
reserves for documentation, so no host outside of the networks that `emu` makes has them.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from emu.guest.frames import BROADCAST, ETHERNET_HEADER, MIN_FRAME

IPV4_ETHERTYPE = 0x0800
ARP_ETHERTYPE = 0x0806
#: The client outside of the VM, and the guest's first NIC.
CLIENT_ADDRESS = bytes((192, 0, 2, 1))
GUEST_ADDRESS = bytes((192, 0, 2, 2))

_ARP = struct.Struct(">6s6sHHHBBH6s4s6s4s")
_ARP_KIND = (1, IPV4_ETHERTYPE, 6, 4)
_ARP_REQUEST, _ARP_REPLY = 1, 2
# Version and length, service, total length, identification, fragment, TTL, protocol, checksum.
_IPV4 = struct.Struct(">BBHHHBBH4s4s")
_ICMP = struct.Struct(">BBHHH")
_ICMP_PROTOCOL = 1
_ECHO_REQUEST, _ECHO_REPLY = 8, 0
_NO_OPTIONS = 0x45
_TTL = 64
#: More fragments, or an offset: fragments are not reassembled.
_FRAGMENT = 0x3FFF
_HEADERS = ETHERNET_HEADER + _IPV4.size + _ICMP.size
#: Bytes of data in an echo that fits into the shortest frame; no longer echo is answered.
ECHO_DATA = MIN_FRAME - _HEADERS


def checksum(data: bytes | bytearray | memoryview) -> int:
    """The Internet checksum (RFC 1071); 0 for data that includes its checksum."""
    padded = bytes(data) + b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f">{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


class Echo(NamedTuple):
    """An ICMP echo request or its reply.

    Attributes:
        destination, source: MACs.
        to, sender: IPv4 addresses.
        identifier, sequence: 16 bits each.
        data: up to `ECHO_DATA` bytes.
        is_reply: whether it is the reply.
    """

    destination: bytes
    source: bytes
    to: bytes
    sender: bytes
    identifier: int
    sequence: int
    data: bytes
    is_reply: bool = False

    def pack(self) -> bytes:
        """The frame, padded to 60 bytes."""
        kind = _ECHO_REPLY if self.is_reply else _ECHO_REQUEST
        message = _ICMP.pack(kind, 0, 0, self.identifier, self.sequence) + self.data
        message = message[:2] + checksum(message).to_bytes(2, "big") + message[4:]
        length = _IPV4.size + len(message)
        fields = (_NO_OPTIONS, 0, length, 0, 0, _TTL, _ICMP_PROTOCOL)
        check = checksum(_IPV4.pack(*fields, 0, self.sender, self.to))
        header = _IPV4.pack(*fields, check, self.sender, self.to)
        ethernet = self.destination + self.source + IPV4_ETHERTYPE.to_bytes(2, "big")
        return (ethernet + header + message).ljust(MIN_FRAME, b"\0")

    @classmethod
    def parse(cls, frame: bytes | bytearray | memoryview) -> Echo | None:
        """The echo in a frame; None if it has none, is damaged, or is longer than the shortest."""
        data = bytes(frame)
        if len(data) < _HEADERS or data[12:14] != IPV4_ETHERTYPE.to_bytes(2, "big"):
            return None
        header = data[ETHERNET_HEADER : ETHERNET_HEADER + _IPV4.size]
        start, _, length, _, fragment, _, protocol, _, sender, to = _IPV4.unpack(header)
        message = data[ETHERNET_HEADER + _IPV4.size : ETHERNET_HEADER + length]
        if start != _NO_OPTIONS or fragment & _FRAGMENT or protocol != _ICMP_PROTOCOL:
            return None
        if checksum(header) or not _ICMP.size <= len(message) == length - _IPV4.size:
            return None
        kind, code, _, identifier, sequence = _ICMP.unpack_from(message)
        rest = message[_ICMP.size :]
        if kind not in (_ECHO_REQUEST, _ECHO_REPLY) or code or checksum(message):
            return None
        if len(rest) > ECHO_DATA:
            return None
        return cls(
            data[:6], data[6:12], to, sender, identifier, sequence, rest, kind == _ECHO_REPLY
        )

    def reply(self, source: bytes) -> Echo:
        """The reply of the station with that MAC."""
        return self._replace(
            destination=self.source, source=source, to=self.sender, sender=self.to, is_reply=True
        )


def arp_request(mac: bytes, sender: bytes, wanted: bytes) -> bytes:
    """A broadcast request for the MAC of the station that has the address ``wanted``."""
    return _arp(BROADCAST, _ARP_REQUEST, mac, sender, bytes(6), wanted)


def gratuitous_arp(mac: bytes, address: bytes) -> bytes:
    """An ARP announcement (RFC 5227, section 3)."""
    return arp_request(mac, address, address)


def arp_reply(frame: bytes | bytearray | memoryview) -> tuple[bytes, bytes] | None:
    """Address and MAC of the sender, or None if the frame is not an ARP reply."""
    found = _parse_arp(frame)
    return None if found is None or found[0] != _ARP_REPLY else (found[2], found[1])


def answer(frame: bytes | bytearray | memoryview, mac: bytes, address: bytes) -> bytes | None:
    """The reply of a station with these addresses to a frame; None if it sends none."""
    found = _parse_arp(frame)
    if found is not None:
        operation, asker, sender, wanted = found
        if operation != _ARP_REQUEST or wanted != address or asker == mac:
            return None
        return _arp(asker, _ARP_REPLY, mac, address, asker, sender)
    echo = Echo.parse(frame)
    if echo is None or echo.is_reply or echo.to != address or echo.destination != mac:
        return None
    return echo.reply(mac).pack()


def _arp(
    destination: bytes, operation: int, mac: bytes, sender: bytes, target: bytes, wanted: bytes
) -> bytes:
    fields = (destination, mac, ARP_ETHERTYPE, *_ARP_KIND, operation, mac, sender, target, wanted)
    return _ARP.pack(*fields).ljust(MIN_FRAME, b"\0")


def _parse_arp(frame: bytes | bytearray | memoryview) -> tuple[int, bytes, bytes, bytes] | None:
    """Operation, sender's MAC, sender's address, wanted address."""
    if len(frame) < _ARP.size:
        return None
    _, _, ethertype, *kind, operation, mac, sender, _, wanted = _ARP.unpack_from(frame)
    if ethertype != ARP_ETHERTYPE or tuple(kind) != _ARP_KIND:
        return None
    return operation, mac, sender, wanted
