"""When kicks are too many."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

from backends.idle_kicks import IdleKicks
from backends.limits import IDLE_KICKS

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
