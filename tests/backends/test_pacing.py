"""Latency that is injected into a control thread, on a fake clock and on the real one."""
# ruff: noqa: D102, D103 - the names say what they are about

from __future__ import annotations

import time

from backends.pacing import LARGEST_CREDIT_NS, LONGEST_GAP_NS, LONGEST_ROUND_TRIP_NS, Pacer

LATENCY = 2_000_000
START = 10**12


class Clock:
    """A fake clock; a sleep advances it by a little more than it should."""

    def __init__(self, late: int = 0) -> None:
        self.now = START
        self.late = late

    def __call__(self) -> int:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += round(seconds * 1e9) + self.late

    def pacer(self) -> Pacer:
        return Pacer(self, self.sleep)


def test_units_in_lock_step_take_their_latency_each() -> None:
    """The front-end's time between two units is a part of the second."""
    clock = Clock()
    pacer = clock.pacer()
    for _ in range(10):
        pacer.inject(clock.now, LATENCY)
        assert (clock.now - START) % LATENCY == 0
        clock.now += LONGEST_GAP_NS
    assert clock.now - LONGEST_GAP_NS - START == 10 * LATENCY


def test_units_in_flight_follow_each_other() -> None:
    clock = Clock()
    pacer = clock.pacer()
    for _ in range(10):
        pacer.inject(START, LATENCY)
    assert clock.now - START == 10 * LATENCY


def test_sleeps_that_take_too_long_do_not_add_up() -> None:
    late = 1_500_000
    clock = Clock(late)
    pacer = clock.pacer()
    for _ in range(10):
        pacer.inject(clock.now, LATENCY)
        clock.now += 100_000
    assert 10 * LATENCY <= clock.now - START <= 10 * LATENCY + late + 100_000


def test_a_long_gap_is_not_credited() -> None:
    clock = Clock()
    pacer = clock.pacer()
    pacer.inject(clock.now, LATENCY)
    clock.now += LONGEST_GAP_NS + 1
    begin = clock.now
    pacer.inject(begin, LATENCY)
    assert clock.now - begin == LATENCY


def test_a_thread_that_is_much_too_late_does_not_catch_up() -> None:
    clock = Clock()
    pacer = clock.pacer()
    pacer.inject(START, LATENCY)
    clock.now += 10**9
    pacer.inject(START, LATENCY)
    begin = clock.now
    for _ in range(100):
        pacer.inject(START, LATENCY)
    assert clock.now - begin == 100 * LATENCY - LARGEST_CREDIT_NS


def test_a_first_unit_is_credited_with_the_usual_gap() -> None:
    """Otherwise each device's first unit would take a round trip too long."""
    clock = Clock()
    pacer = clock.pacer()
    for gap in (80_000, 250_000, 100_000, LONGEST_ROUND_TRIP_NS + 1):
        pacer.replied()
        clock.now += gap
        pacer.arrived(clock.now)
        pacer.arrived(clock.now + 7)
    clock.now += 10**9
    begin = clock.now
    pacer.arrived(begin)
    pacer.inject(begin, LATENCY)
    assert clock.now - begin == LATENCY - 3 * 250_000
    clock.now += 10**9
    begin = clock.now
    pacer.arrived(begin)
    pacer.inject(begin, 1_000_000)
    assert clock.now - begin == 500_000, "at most half of its latency is credited"


def test_a_unit_begins_with_the_first_message_that_came_with_it() -> None:
    """SET_FEATURES is a part of the unit of a memory table."""
    clock = Clock()
    pacer = clock.pacer()
    begin = clock.now
    pacer.arrived(begin)
    clock.now += 300_000
    pacer.arrived(clock.now)
    pacer.inject(clock.now, LATENCY)
    assert clock.now - begin == LATENCY


def test_sleeps_are_shortened_by_what_they_usually_take_too_long() -> None:
    clock = Clock(late=80_000)
    pacer = clock.pacer()
    for _ in range(50):
        clock.now += 10**9
        begin = clock.now
        pacer.inject(begin, LATENCY)
    assert abs(clock.now - begin - LATENCY) < 5_000


def test_on_the_real_clock() -> None:
    pacer = Pacer()
    begin = time.monotonic_ns()
    for _ in range(5):
        pacer.inject(begin, LATENCY)
    assert time.monotonic_ns() - begin >= 5 * LATENCY
