"""A driver and a device against a model: nothing is lost, doubled, altered or missed."""
# ruff: noqa: D102 - the name of a test says what it is about

from __future__ import annotations

import os
from collections import deque
from typing import NamedTuple

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.vhost_user.rings import Ring, guest_memory
from vhost_user.virtqueue import Chain, DeviceQueue, DriverQueue, QueueFull
from vhost_user.virtqueue.layout import USED_NO_NOTIFY

AREA = 1024  # of each chain: its indirect table, then its buffers
TABLE = 256
AREAS = 1100
RAM = 32 * 1024 + AREA * AREAS


class Sent(NamedTuple):
    """A chain as the driver made it."""

    area: int
    readable: list[tuple[int, int]]
    writable: list[tuple[int, int]]
    data: bytes


class Shape(NamedTuple):
    """Lengths of a chain's buffers."""

    readable: list[int]
    writable: list[int]
    indirect: bool


lengths = st.lists(st.integers(1, 60), max_size=6)
shapes = st.builds(Shape, lengths, lengths, st.booleans()).filter(
    lambda shape: shape.readable or shape.writable
)


class TwoSides(RuleBasedStateMachine):
    """A driver and a device on the same memory; the model tracks what each side has."""

    @initialize(
        bits=st.integers(1, 10),
        event_idx=st.booleans(),
        start=st.one_of(st.integers(65_500, 65_535), st.integers(0, 65_535)),
        cut=st.integers(33 * 1024, 40 * 1024),
    )
    def begin(self, bits: int, event_idx: bool, start: int, cut: int) -> None:
        # a region ends inside the first areas, so that buffers cross regions
        # at the device; the guest has its memory in one piece
        fd = os.memfd_create("ram")
        os.ftruncate(fd, RAM)
        self.guest = guest_memory(RAM, fd=os.dup(fd)).view(0, RAM)
        self.ring = Ring(guest_memory(RAM, [cut], fd=fd), 1 << bits, event_idx=event_idx)
        self.driver: DriverQueue = self.ring.driver()
        self.driver.reset(start)
        self.device: DeviceQueue = self.ring.device(start)
        self.areas = deque(range(AREAS))
        self.serial = 0
        self.staged: deque[int] = deque()  # heads added, not yet published
        self.available: deque[int] = deque()  # published, not yet popped
        self.held: list[Chain] = []  # popped, not yet pushed
        self.pushed: deque[tuple[int, int, bytes]] = deque()
        self.used: deque[tuple[int, int, bytes]] = deque()
        self.sent: dict[int, Sent] = {}
        self.device_sleeps = self.driver_sleeps = False
        self.kicked = self.called = False

    def extents(self, at: int, sizes: list[int]) -> list[tuple[int, int]]:
        made = []
        for size in sizes:
            made.append((at, size))
            at += size
        return made

    def write(self, extents: list[tuple[int, int]], data: bytes) -> None:
        for gpa, length in extents:
            self.guest[gpa : gpa + length], data = data[:length], data[length:]

    def read(self, extents: list[tuple[int, int]]) -> bytes:
        return b"".join(self.guest[gpa : gpa + length] for gpa, length in extents)

    def next_data(self, length: int) -> bytes:
        self.serial += 1
        return (self.serial.to_bytes(8, "little") * (length // 8 + 1))[:length]

    @rule(shape=shapes, burst=st.sampled_from([1, 1, 1, 3, 40, 1024]))
    def add(self, shape: Shape, burst: int) -> None:
        count = 1 if shape.indirect else len(shape.readable) + len(shape.writable)
        for _ in range(burst):
            free, in_flight = self.driver.free, self.driver.in_flight
            area = self.areas[0]
            base = RAM - AREA * AREAS + area * AREA
            readable = self.extents(base + TABLE, shape.readable)
            writable = self.extents(base + TABLE + 360, shape.writable)
            table = (base, self.guest[base : base + TABLE]) if shape.indirect else None
            if count > free:
                try:
                    self.driver.add(readable, writable, table)
                except QueueFull:
                    assert (self.driver.free, self.driver.in_flight) == (free, in_flight)
                    return
                raise AssertionError("a full ring took a chain")
            data = self.next_data(sum(shape.readable))
            self.write(readable, data)
            head = self.driver.add(readable, writable, table)
            assert head not in self.sent
            assert self.driver.free == free - count
            self.sent[head] = Sent(self.areas.popleft(), readable, writable, data)
            self.staged.append(head)

    @rule()
    def driver_publish(self) -> None:
        had = len(self.staged)
        kick = self.driver.publish()
        assert had or not kick
        self.available += self.staged
        self.staged.clear()
        self.kicked |= kick

    @rule(count=st.sampled_from([1, 2, 5, 2000]))
    def device_pop(self, count: int) -> None:
        self.device_sleeps = self.kicked = False
        for _ in range(count):
            chain = self.device.pop()
            if chain is None:
                assert not self.available
                return
            sent = self.sent[chain.head]
            assert chain.head == self.available.popleft()
            assert b"".join(chain.readable) == sent.data
            assert chain.writable_extents == sent.writable
            assert sum(map(len, chain.writable)) == sum(length for _, length in sent.writable)
            self.held.append(chain)

    @rule(data=st.data(), count=st.sampled_from([1, 1, 4, 2000]))
    def device_complete(self, data: st.DataObject, count: int) -> None:
        for _ in range(min(count, len(self.held))):
            at = data.draw(st.integers(0, len(self.held) - 1)) if count < 5 else len(self.held) // 2
            chain = self.held.pop(at)
            answer = self.next_data(sum(map(len, chain.writable)))
            left = answer
            for piece in chain.writable:
                piece[:], left = left[: len(piece)], left[len(piece) :]
            self.device.push(chain.head, len(answer))
            self.pushed.append((chain.head, len(answer), answer))

    @rule()
    def device_publish(self) -> None:
        had = len(self.pushed)
        call = self.device.publish()
        assert had or not call
        self.used += self.pushed
        self.pushed.clear()
        self.called |= call

    @rule(count=st.sampled_from([1, 2, 2000]))
    def driver_pop(self, count: int) -> None:
        self.driver_sleeps = self.called = False
        for _ in range(count):
            done = self.driver.pop()
            if done is None:
                assert not self.used
                return
            head, written, answer = self.used.popleft()
            assert done == (head, written)
            sent = self.sent.pop(head)
            assert self.read(sent.writable) == answer
            assert self.read(sent.readable) == sent.data
            self.areas.append(sent.area)

    @rule()
    def device_arm(self) -> None:
        more = self.device.arm()
        assert more == bool(self.available)
        self.device_sleeps = not more

    @rule()
    def driver_arm(self) -> None:
        more = self.driver.arm()
        assert more == bool(self.used)
        self.driver_sleeps = not more

    # What programs do, in one step each, so that runs get far; the rules above are its parts.

    @rule(shape=shapes, burst=st.sampled_from([1, 2, 5, 1024]))
    def driver_submits(self, shape: Shape, burst: int) -> None:
        self.add(shape, burst)
        self.driver_publish()

    @rule(data=st.data(), count=st.sampled_from([1, 3, 2000]))
    def device_serves(self, data: st.DataObject, count: int) -> None:
        self.device_pop(2000)
        self.device_complete(data, count)
        self.device_publish()
        self.device_arm()

    @rule()
    def driver_reaps(self) -> None:
        self.driver_pop(2000)
        self.driver_arm()

    @rule()
    def disarm(self) -> None:
        """A device disables kicks by a flag; ours does not, and clears that of one before it."""
        if not self.device_sleeps and not self.ring.event_idx:
            self.ring.used.cast("H")[0] = USED_NO_NOTIFY
        if not self.driver_sleeps:
            self.driver.disarm()

    @rule()
    def migrate(self) -> None:
        """Both continue from guest memory and the vring base, once the device has stopped."""
        self.device_complete_all()
        self.device_publish()
        self.device = self.ring.device(self.device.last_avail)
        self.driver = self.ring.driver()
        self.kicked = self.called = True  # as a front-end signals both once after a start

    def device_complete_all(self) -> None:
        while self.held:
            chain = self.held.pop()
            self.device.push(chain.head, 0)
            self.pushed.append((chain.head, 0, self.read(self.sent[chain.head].writable)))

    @invariant()
    def no_notification_is_lost(self) -> None:
        if not hasattr(self, "ring"):
            return
        assert not (self.device_sleeps and self.available and not self.kicked)
        assert not (self.driver_sleeps and self.used and not self.called)
        assert self.driver.in_flight == len(self.sent)

    def teardown(self) -> None:
        if not hasattr(self, "ring"):
            return
        self.driver_publish()
        self.device_pop(70_000)
        self.device_complete_all()
        self.device_publish()
        self.driver_pop(70_000)
        assert not self.sent
        assert self.driver.free == self.ring.size
        assert self.driver.in_flight == 0


TwoSidesTest = TwoSides.TestCase
TwoSidesTest.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
