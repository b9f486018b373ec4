"""The order of the migrations of a plan."""

from __future__ import annotations

import pytest

from emu.config.plan import MachinePlan, MigrationPlan
from emu.config.vm_spec import VmSpec


@pytest.mark.parametrize(
    ("repeat", "expected"),
    [
        (1, [("split", 1), ("prewired", 1)]),
        (2, [("split", 1), ("prewired", 1), ("split", 2), ("prewired", 2)]),
    ],
)
def test_each_repetition_runs_all_strategies_in_order(
    repeat: int, expected: list[tuple[str, int]]
) -> None:
    """So that a slow phase of the host affects all strategies alike."""
    plan = MigrationPlan(MachinePlan(VmSpec()), ("split", "prewired"), repeat)
    assert plan.sequence == expected
