"""Times that were measured outside of pytest-benchmark, as its rounds.

Mark the benchmark with ``timer=recorded``, then `replay` what was measured.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

_elapsed = 0.0


def recorded() -> float:
    """A timer that advances only by the times that `replay` adds."""
    return _elapsed


def replay(benchmark: Any, seconds: Sequence[float]) -> None:
    """Record each of these times as a round."""
    left = iter(seconds)

    def tick() -> None:
        global _elapsed
        _elapsed += next(left)

    benchmark.pedantic(tick, rounds=len(seconds))
