"""The limit on bytes a second, in virtual time."""
# ruff: noqa: D102, D103 - the names say what they do

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from emu.migration.bandwidth import TokenBucket

S = 1_000_000_000


class Clock:
    """Time that passes on request."""

    def __init__(self) -> None:
        self.ns = 0

    def __call__(self) -> int:
        return self.ns


def test_without_a_limit_nothing_waits() -> None:
    assert TokenBucket(0).consume(1 << 40) == 0


@given(
    rate=st.integers(1000, 1 << 34),
    steps=st.lists(st.tuples(st.integers(0, 4), st.integers(0, S)), max_size=40),
)
def test_never_faster_than_the_rate_but_for_one_burst(
    rate: int, steps: list[tuple[int, int]]
) -> None:
    """A sender that waits as returned stays below the rate, over any interval."""
    clock = Clock()
    bucket = TokenBucket(rate, clock)
    sent = [(0, 0)]
    for pieces, idle in steps:
        clock.ns += idle
        wait = bucket.consume(pieces * bucket.piece)
        sent.append((clock.ns, sent[-1][1] + pieces * bucket.piece))
        clock.ns += wait
    allowed = 6 * bucket.piece  # the burst, and what goes before the wait for it
    for index, (start, before) in enumerate(sent):
        for at, total in sent[index:]:
            assert total - before <= rate * (at - start) // S + allowed


def test_as_fast_as_the_rate_when_there_is_always_something() -> None:
    clock = Clock()
    bucket = TokenBucket(20 << 20, clock)
    for _ in range(1000):
        clock.ns += bucket.consume(bucket.piece)
    rate = 1000 * bucket.piece * S / clock.ns
    assert 0.99 * (20 << 20) < rate < 1.01 * (20 << 20)
