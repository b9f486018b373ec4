"""Costs of a control thread, on the real clock."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import time

from backends.pacing import LARGEST_CREDIT_NS, Pacer

COST = 2_000_000


def test_units_in_lock_step_take_their_cost_each() -> None:
    """What the front-end needs between two units is part of the second one."""
    pacer = Pacer()
    begin = time.monotonic_ns()
    for _ in range(10):
        end = time.monotonic_ns() + LARGEST_CREDIT_NS // 3
        while time.monotonic_ns() < end:
            pass
        pacer.charge(time.monotonic_ns(), COST)
    took = time.monotonic_ns() - begin
    assert 10 * COST <= took < 11.5 * COST


def test_units_in_flight_follow_each_other() -> None:
    pacer = Pacer()
    begin = time.monotonic_ns()
    for _ in range(10):
        pacer.charge(begin, COST)
    took = time.monotonic_ns() - begin
    assert 10 * COST <= took < 11 * COST


def test_a_long_gap_is_nobodys_credit() -> None:
    pacer = Pacer()
    pacer.charge(time.monotonic_ns(), 1)
    time.sleep(0.01)
    begin = time.monotonic_ns()
    pacer.charge(begin, COST)
    assert time.monotonic_ns() - begin >= COST
