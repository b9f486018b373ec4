"""Times that were measured elsewhere, as pytest-benchmark's own rounds.

Mark the benchmark with ``timer=recorded``, then `replay` what was measured.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

_elapsed = 0.0


def recorded() -> float:
    """A timer that stands still, but for what `replay` puts in."""
    return _elapsed


def replay(benchmark: Any, seconds: Sequence[float]) -> None:
    """Make each of these times a round."""
    left = iter(seconds)

    def tick() -> None:
        global _elapsed
        _elapsed += next(left)

    benchmark.pedantic(tick, rounds=len(seconds))
