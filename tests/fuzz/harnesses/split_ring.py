"""The device's side of a split ring, in any guest memory.

Invariant: whatever a guest writes into its ring, the device's side raises nothing but
`FrontendError`, each chain's buffers lie in guest memory with the readable ones first, and nothing
but the used ring is written.
"""

from __future__ import annotations

from contextlib import suppress

from tests.fuzz.reader import Reader
from tests.vhost_user.rings import Ring, guest_memory
from vhost_user.errors import FrontendError
from vhost_user.virtqueue.layout import MAX_CHAIN

_MEMORY = 1 << 16
_CUTS = (0x8000,)
_table = guest_memory(_MEMORY, _CUTS)
_low, _high = _table.view(0, _CUTS[0]), _table.view(_CUTS[0], _MEMORY - _CUTS[0])


def one_input(data: bytes) -> None:
    """Size and mode (1 byte), the base (2), rounds (1), then guest memory from address 0 on."""
    reader = Reader(data)
    mode, base, rounds = reader.number(1), reader.number(2), reader.number(1) % 40
    size = 1 << (mode & 7)
    contents = reader.take(_CUTS[0])
    _low[:] = contents.ljust(_CUTS[0], b"\0")
    _high[:] = reader.take(len(_high)).ljust(len(_high), b"\0")
    ring = Ring(_table, size, event_idx=bool(mode & 8))
    used = slice(ring.at.used, ring.at.end)
    before = bytes(_low[: used.start]) + bytes(_low[used.stop :])
    with suppress(FrontendError):
        _serve(ring, base, rounds)
    assert bytes(_low[: used.start]) + bytes(_low[used.stop :]) == before


def _serve(ring: Ring, base: int, rounds: int) -> None:
    queue = ring.device(base)
    for _ in range(rounds):
        chain = queue.pop()
        if chain is None:
            queue.publish()
            if not queue.arm():
                return
            continue
        assert chain.head < ring.size
        assert len(chain.readable) + len(chain.writable) <= 2 * MAX_CHAIN
        for gpa, length in chain.writable_extents:
            assert length
            assert gpa + length <= _MEMORY
        queue.push(chain.head, sum(map(len, chain.writable)) & 0xFFFF)
    queue.publish()
