"""When a stop that waits is checked again."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import pytest

from backends.stop_policy import TICK_NS, StopKind, StopPolicy

BEGUN = 1_000_000_000


@pytest.mark.parametrize("kind", [StopKind.IMMEDIATE, StopKind.DRAIN])
def test_without_a_stop_time_completions_end_a_stop(kind: StopKind) -> None:
    policy = StopPolicy(kind)
    assert policy.instant
    assert policy.ready_at(BEGUN) == BEGUN
    assert policy.next_check(BEGUN, BEGUN) is None


@pytest.mark.parametrize("kind", list(StopKind))
def test_a_stop_time_comes_first(kind: StopKind) -> None:
    policy = StopPolicy(kind, 20_000_000)
    assert not policy.instant
    assert policy.next_check(BEGUN, BEGUN + 1) == BEGUN + 20_000_000


def test_a_tick_is_a_millisecond_and_stays_in_step() -> None:
    policy = StopPolicy(StopKind.TICK)
    assert not policy.instant
    assert policy.ready_at(BEGUN) == BEGUN + TICK_NS
    assert policy.next_check(BEGUN, BEGUN + 10) == BEGUN + TICK_NS
    assert policy.next_check(BEGUN, BEGUN + 3 * TICK_NS + 400) == BEGUN + 4 * TICK_NS
