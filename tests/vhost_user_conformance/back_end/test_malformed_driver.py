"""Drivers at the limits of the rules, on a back-end that completes all available requests."""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, cast

import pytest

from vhost_user_conformance.back_end import malformed_driver
from vhost_user_conformance.back_end.malformed_driver import (
    NEXT,
    kick_if_asked,
    kick_if_late,
    spoil,
    write_table,
)
from vhost_user_conformance.model.verdict import Failed, Observed
from vhost_user_conformance.peer.memory import MIB, Memory, TestRing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vhost_user_conformance.back_end.connection import BackEnd

NO_NOTIFY = 1


class Completing:
    """Completes available requests when the driver waits for them, kicked or not.

    Args:
        flags: of its used ring.
    """

    def __init__(self, ring: TestRing, flags: int) -> None:
        self._ring = ring
        ring.memory.write(ring.used, struct.pack("<H", flags))

    def await_used(self, ring: TestRing, index: int) -> None:
        """See `BackEnd.await_used`."""
        slot = (index - 1) % ring.size
        head = ring.memory.read(ring.avail + 4 + 2 * slot, 2)
        ring.memory.write(ring.used + 4 + 8 * slot, head + bytes(6))
        ring.memory.write(ring.used + 2, struct.pack("<H", index))


@pytest.fixture
def ring() -> Iterator[TestRing]:
    """A ring of 4 descriptors."""
    memory = Memory((MIB,))
    made = TestRing(memory, 0, 4)
    yield made
    made.close()
    memory.close()


def spare_kicks(ring: TestRing, flags: int) -> tuple[list[int], list[int]]:
    """Heads that were added, and heads whose completions were taken."""
    added: list[int] = []
    took: list[int] = []

    def add() -> int:
        added.append(ring.driver.add([(MIB, 16)], []))
        return added[-1]

    def take(head: int) -> None:
        done = ring.driver.pop()
        assert done == (head, 0)
        took.append(head)

    kick_if_asked(cast("BackEnd", Completing(ring, flags)), ring, add, take)
    return added, took


def test_each_request_is_taken_back(ring: TestRing) -> None:
    """A hundred requests, each with its head, and with kicks."""
    added, took = spare_kicks(ring, 0)
    assert added == took
    assert len(took) == os.eventfd_read(ring.kick_fd) == 100


def test_a_back_end_that_wants_no_kick(ring: TestRing) -> None:
    """It is observed to poll, and gets no kick."""
    with pytest.raises(Observed, match="it polls"):
        spare_kicks(ring, NO_NOTIFY)
    with pytest.raises(BlockingIOError):
        os.eventfd_read(ring.kick_fd)


def test_what_is_spoilt(ring: TestRing) -> None:
    """It is in memory as given, available, and kicked; the next one follows it."""
    spoil(ring, {1: (MIB, 16, NEXT, 9)}, 1)
    spoil(ring, {2: (MIB, 0, 0, 0)}, 7)
    assert ring.memory.read(ring.desc + 16, 16) == struct.pack("<QIHH", MIB, 16, NEXT, 9)
    assert ring.memory.read(ring.avail + 2, 6) == struct.pack("<HHH", 2, 1, 7)
    at = ring.memory.allocate(32)
    write_table(ring, at, [(1, 2, 3, 4), (5, 6, 7, 8)])
    assert ring.memory.read(at, 32) == struct.pack("<QIHHQIHH", 1, 2, 3, 4, 5, 6, 7, 8)


class Late:
    """Completes two requests when the driver waits for both, except in the last rounds."""

    timeout = 0.0

    def __init__(self, ring: TestRing, turns: int) -> None:
        self._completing = Completing(ring, NO_NOTIFY)
        self._turns = turns

    def await_used(self, ring: TestRing, index: int) -> None:
        """See `BackEnd.await_used`."""
        if index > 2 * self._turns:
            raise Failed("a completion", "none")
        self._completing.await_used(ring, index - 1)
        self._completing.await_used(ring, index)


def test_a_request_that_is_left_lying_is_found(ring: TestRing) -> None:
    """Two requests a round fit into a ring of 4 in each round, as each completion is taken."""
    added: list[int] = []

    def add() -> int:
        added.append(ring.driver.add([(MIB, 16)], []))
        return added[-1]

    with pytest.raises(Failed, match="a completion"):
        kick_if_late(cast("BackEnd", Late(ring, turns=20)), ring, add)
    assert len(added) == 42
    assert os.eventfd_read(ring.kick_fd) == 21  # one a round, as it does not enable kicks


def test_a_slow_device_is_given_fewer_rounds(
    ring: TestRing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A round that has begun is ended."""
    monkeypatch.setattr(malformed_driver, "_HURRIED_SECONDS", 0.0)
    kick_if_late(
        cast("BackEnd", Late(ring, turns=20)), ring, lambda: ring.driver.add([(MIB, 16)], [])
    )
    assert ring.used_index == 2
