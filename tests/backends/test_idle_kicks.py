"""When kicks are too many."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING

from backends.idle_kicks import IDLE_KICKS_NS, IdleKicks
from backends.limits import IDLE_KICKS

if TYPE_CHECKING:
    import pytest

SIZE = 8


def kicks_until_too_many(kicks: IdleKicks, position: int | None) -> int:
    count = 1
    while not kicks.too_many(position, SIZE):
        count += 1
    return count


def test_kicks_without_a_request() -> None:
    assert kicks_until_too_many(IdleKicks(), None) == IDLE_KICKS + SIZE + 1


def test_a_request_begins_the_count_again() -> None:
    kicks = IdleKicks()
    for position in range(2):
        assert not any(kicks.too_many(position, SIZE) for _ in range(IDLE_KICKS + SIZE + 1))
    assert kicks.too_many(1, SIZE)


def test_kicks_that_bring_requests_are_never_too_many() -> None:
    kicks = IdleKicks()
    assert not any(kicks.too_many(position, SIZE) for position in range(3 * IDLE_KICKS))


def test_kicks_that_take_long_are_not_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(0, IDLE_KICKS_NS)
    monkeypatch.setattr(time, "monotonic_ns", lambda: next(clock))
    kicks = IdleKicks()
    assert not any(kicks.too_many(None, SIZE) for _ in range(4 * IDLE_KICKS))
