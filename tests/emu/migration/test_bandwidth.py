"""The bandwidth limit, in virtual time."""
# ruff: noqa: D102, D103 - the names describe them

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from emu.migration.bandwidth import TokenBucket

S = 1_000_000_000


class Clock:
    """Time that the test advances."""

    def __init__(self) -> None:
        self.ns = 0

    def __call__(self) -> int:
        return self.ns


def test_without_a_limit_there_is_no_wait() -> None:
    assert TokenBucket(0).consume(1 << 40) == 0


@given(
    rate=st.integers(1000, 1 << 34),
    steps=st.lists(st.tuples(st.integers(0, 4), st.integers(0, S)), max_size=40),
)
def test_the_rate_is_exceeded_by_one_burst_at_most(rate: int, steps: list[tuple[int, int]]) -> None:
    """A sender that waits as returned stays below the rate, over any interval."""
    clock = Clock()
    bucket = TokenBucket(rate, clock)
    sent = [(0, 0)]
    for chunks, idle in steps:
        clock.ns += idle
        wait = bucket.consume(chunks * bucket.chunk)
        sent.append((clock.ns, sent[-1][1] + chunks * bucket.chunk))
        clock.ns += wait
    allowed = 6 * bucket.chunk  # the burst, and the bytes that are sent before the wait
    for index, (start, before) in enumerate(sent):
        for at, total in sent[index:]:
            assert total - before <= rate * (at - start) // S + allowed


def test_a_sender_that_never_idles_reaches_the_rate() -> None:
    clock = Clock()
    bucket = TokenBucket(20 << 20, clock)
    for _ in range(1000):
        clock.ns += bucket.consume(bucket.chunk)
    rate = 1000 * bucket.chunk * S / clock.ns
    assert 0.99 * (20 << 20) < rate < 1.01 * (20 << 20)
