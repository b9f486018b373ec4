"""The compiled function of NICs returns frames as Python does."""
# ruff: noqa: D102, D103 - the names say what they are about

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends import limits, stats
from backends.net_device import RX_HEADER, SHORTEST_FRAME
from backends.nic_batch import NicBatch
from backends.ring_service import Served
from tests.vhost_user.rings import Ring as Memory
from tests.vhost_user.rings import guest_memory
from vhost_user import native
from vhost_user.mapping import losses

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vhost_user.memory import MemoryTable
    from vhost_user.virtqueue.batch import Batch

pytestmark = pytest.mark.skipif(not native.available, reason="the extension was not built")

SIZE = 256
MEMORY = 1 << 20
#: In guest memory: buffers of each ring.
TX, RX = 0x10000, 0x80000
PLACE = 0x1000
HEADER = len(RX_HEADER)
LONGEST = 1514


class Nic:
    """Two rings of a guest, and frames."""

    def __init__(self, table: MemoryTable) -> None:
        self.table = table
        self.rings = [Memory(guest_memory(1 << 14), SIZE, event_idx=False) for _ in range(2)]
        for ring in self.rings:
            ring.memory = table
        self.drivers = [ring.driver() for ring in self.rings]
        for driver in self.drivers:
            driver.reset()
        self.queues = [ring.device() for ring in self.rings]
        self.counters = stats.StatsWriter(1).device(0)
        self.batch = NicBatch(self.counters)
        self.batch.set_header(RX_HEADER, SHORTEST_FRAME, LONGEST)

    def add(self, ring: int, at: int, lengths: list[int]) -> int:
        parts = []
        for length in lengths:
            parts.append((at, length))
            at += length + 3
        driver = self.drivers[ring]
        head = driver.add(*(([], parts) if ring else (parts, [])))
        driver.publish()
        return head

    def bytes_at(self, at: int, lengths: list[int]) -> bytes:
        data = b""
        for length in lengths:
            data += b"".join(self.table.slices(at, length))
            at += length + 3
        return data

    def fill(self, at: int, lengths: list[int], data: bytes) -> None:
        for length in lengths:
            for piece in self.table.slices(at, length):
                piece[:], data = data[: len(piece)], data[len(piece) :]
            at += length + 3

    def lend(self, ring: int) -> Batch:
        made = self.queues[ring].batch()
        assert made is not None
        assert made.begin(losses[0], None, log_buffers=False)
        return made

    def serve_after_frames(self, count: int, expected: Served = Served.ALL) -> None:
        for _ in range(count):
            self.add(0, TX, [HEADER + 60])
        assert self.serve() is expected

    def serve(self) -> Served:
        returned = self.batch.serve(self.lend(0), self.lend(1))
        return returned.served


@pytest.fixture
def nic() -> Iterator[Nic]:
    table = guest_memory(MEMORY, (RX + 2 * PLACE,))
    yield Nic(table)
    table.close()


def test_frames_come_back_with_a_header_of_their_own(nic: Nic) -> None:
    for number in range(2):
        nic.fill(TX + number * PLACE, [HEADER, 60], b"\xff" * HEADER + bytes([number]) * 60)
        nic.add(0, TX + number * PLACE, [HEADER, 60])
        nic.add(1, RX + number * PLACE, [100])
    assert nic.serve() is Served.ALL
    for number in range(2):
        assert nic.drivers[0].pop() == (2 * number, 0)
        assert nic.drivers[1].pop() == (number, HEADER + 60)
        assert nic.bytes_at(RX + number * PLACE, [72]) == RX_HEADER + bytes([number]) * 60
    assert nic.counters[stats.PACKETS_TX] == nic.counters[stats.PACKETS_RX] == 2


def test_without_a_buffer_a_frame_is_dropped(nic: Nic) -> None:
    nic.add(1, RX, [100])
    nic.serve_after_frames(2)
    assert nic.counters[stats.PACKETS_TX] == 2
    assert nic.counters[stats.PACKETS_RX] == nic.counters[stats.PACKETS_DROPPED] == 1


@pytest.mark.parametrize(
    ("frame", "buffer"),
    [
        pytest.param(SHORTEST_FRAME - 1, 2000, id="short"),
        pytest.param(LONGEST + 1, 2000, id="long"),
        pytest.param(60, HEADER + 59, id="no room"),
    ],
)
def test_what_is_unusual_stays_in_the_ring(nic: Nic, frame: int, buffer: int) -> None:
    nic.add(1, RX, [buffer])
    nic.add(0, TX, [HEADER + frame])
    assert nic.serve() is Served.UNUSUAL
    assert [queue.last_avail for queue in nic.queues] == [0, 0]


def test_after_a_loss_no_frame_comes_back(nic: Nic) -> None:
    nic.add(1, RX, [100])
    nic.add(0, TX, [HEADER + 60])
    tx, rx = nic.lend(0), nic.lend(1)
    tx.begin(losses[0] + 1, None, log_buffers=False)
    assert nic.batch.serve(tx, rx).served is Served.UNUSUAL
    assert nic.queues[1].last_avail == 0


def test_a_call_returns_so_many_frames(nic: Nic) -> None:
    nic.add(1, RX, [100])
    nic.serve_after_frames(limits.COMPILED_BUDGET + 2, Served.SOME)
    assert nic.queues[0].last_avail == limits.COMPILED_BUDGET
    assert nic.serve() is Served.ALL


pieces = st.lists(st.integers(1, 400), min_size=1, max_size=5)


@settings(deadline=None, max_examples=100)
@given(sent=pieces, room=pieces)
def test_frames_in_any_pieces(sent: list[int], room: list[int]) -> None:
    table = guest_memory(MEMORY, (RX + 2 * PLACE,))
    nic = Nic(table)
    length = sum(sent)
    data = bytes(number % 251 for number in range(length))
    nic.fill(TX, sent, data)
    nic.add(0, TX, sent)
    at = RX + 2 * PLACE  # no piece crosses the edge of a region
    nic.add(1, at, room)
    before = nic.bytes_at(at, room)
    served = nic.serve()
    usual = HEADER + SHORTEST_FRAME <= length <= HEADER + LONGEST and length <= sum(room)
    assert served is (Served.ALL if usual else Served.UNUSUAL)
    expected = RX_HEADER + data[HEADER:] if usual else b""
    assert nic.bytes_at(at, room) == expected + before[len(expected) :]
    table.close()
