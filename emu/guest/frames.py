"""Ethernet frames: the guest's numbered packets, and probes from outside with their replies.

Every frame in a ring follows the virtio-net header of 12 bytes (virtio 1.2, 5.1.6), which is all
zeroes here: no offload is negotiated.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

#: IEEE Std 802: ethertypes for local experiments.
PROBE_ETHERTYPE = 0x88B5
FLOW_ETHERTYPE = 0x88B6
ETHERNET_HEADER = 14
#: Bytes of the shortest frame, without its frame check sequence.
MIN_FRAME = 60
BROADCAST = b"\xff" * 6

FLOW_MAGIC = 0x564D_464C
_PROBE_MAGIC = 0x564D_5042
_REPLY_MAGIC = 0x564D_5052

#: Header of virtio-net, Ethernet, then magic, flow, sequence number, check; padded to 60 bytes.
FLOW = struct.Struct(">12x6s6sHIIQQ22x")
FLOW_BYTES = FLOW.size
_PROBE = struct.Struct(">6s6sHIQQ")
_PADDING = bytes(MIN_FRAME)
_CHECK = 0x9E37_79B9_7F4A_7C15
_MASK64 = (1 << 64) - 1


def nic_mac(nic: int) -> bytes:
    """The MAC of a guest's NIC: locally administered, the number in its last two bytes."""
    return struct.pack(">IH", 0x0256_4D00, nic)


def flow_check(flow: int, sequence: int) -> int:
    """The check value after a packet's sequence number, by which a damaged packet is recognised."""
    return (sequence + (flow << 40) + 1) * _CHECK & _MASK64


class Probe(NamedTuple):
    """A numbered frame from outside of the VM, or the guest's reply.

    Attributes:
        destination, source: MACs.
        sequence: its number.
        sent_ns: when it was sent (CLOCK_MONOTONIC of its sender).
        is_reply: whether it is the guest's reply.
    """

    destination: bytes
    source: bytes
    sequence: int
    sent_ns: int
    is_reply: bool

    def pack(self) -> bytes:
        """The frame, 60 bytes, without a virtio-net header."""
        magic = _REPLY_MAGIC if self.is_reply else _PROBE_MAGIC
        frame = _PROBE.pack(
            self.destination, self.source, PROBE_ETHERTYPE, magic, self.sequence, self.sent_ns
        )
        return frame + _PADDING[len(frame) :]

    @classmethod
    def parse(cls, frame: bytes | bytearray | memoryview) -> Probe | None:
        """The probe in a frame, or None if the frame is not a probe."""
        if len(frame) < _PROBE.size:
            return None
        destination, source, ethertype, magic, sequence, sent_ns = _PROBE.unpack_from(frame)
        if ethertype != PROBE_ETHERTYPE or magic not in (_PROBE_MAGIC, _REPLY_MAGIC):
            return None
        return cls(destination, source, sequence, sent_ns, magic == _REPLY_MAGIC)

    def reply(self, source: bytes) -> Probe:
        """The reply of a station with that MAC."""
        return Probe(self.source, source, self.sequence, self.sent_ns, is_reply=True)
