"""A ring that starts with any inflight region.

Invariant: whatever an inflight region holds, a ring that starts with it raises nothing but
`FrontendError`, resubmits each head at most once and none beyond its size, and records requests.
"""

from __future__ import annotations

from tests.fuzz.reader import Reader
from vhost_user.errors import FrontendError
from vhost_user.inflight import InflightRing, ring_bytes


def one_input(data: bytes) -> None:
    """The ring's size (1 byte: a power of two), its used index (2), then the region."""
    reader = Reader(data)
    size = 1 << reader.number(1) % 9
    used_idx = reader.number(2)
    length = ring_bytes(size)
    part = memoryview(bytearray(reader.take(length).ljust(length, b"\0")))
    ring = InflightRing(part, size)
    try:
        heads = ring.resume(used_idx)
    except FrontendError:
        return
    assert len(set(heads)) == len(heads)
    assert all(0 <= head < size for head in heads)
    for head in heads[:8]:
        ring.taken(head)
        ring.given_back(head)
    ring.published(used_idx + len(heads[:8]) & 0xFFFF)
    again = InflightRing(part, size).resume(used_idx + len(heads[:8]) & 0xFFFF)
    assert set(again) == set(heads[8:]), "a completed request is served again, or one is lost"
