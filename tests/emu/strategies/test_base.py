"""The base class of strategies: what one that only drives tasks does at each side."""
# ruff: noqa: D102, D103 - the names say what they are about

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from devices.procedure import AwaitSwitchover, Change
from emu.strategies import registry
from emu.strategies.base import POSTED, DeviceCost, Strategy, StrategyOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emu.strategies.base import Halt
    from emu.strategies.task import Stage, Task


class Recorded(Strategy):
    """Records at which step each drive is to leave its tasks."""

    def __init__(self) -> None:
        self.halts: list[Halt] = []

    def drive(self, tasks: Sequence[Task], stage: Stage, *, halt: Halt = None) -> None:
        self.halts.append(halt)


class Ahead(Recorded):
    """As `Recorded`, with the notifiers outside of the blackout."""

    prepares_ahead = True


def halts(strategy: Recorded, stage: Stage) -> list[Halt]:
    """Those of both sides, in the order of a migration."""
    strategy.prepare([], stage)
    strategy.stop([], stage)
    strategy.start([], stage)
    strategy.finish([], stage)
    return strategy.halts


@pytest.fixture
def stage() -> Stage:
    """Nothing is driven in it."""
    return None  # type: ignore[return-value]


def test_all_steps_are_in_the_blackout_by_default(stage: Stage) -> None:
    """There is no preparation, and nothing is left to finish."""
    assert halts(Recorded(), stage) == [None, None, None]


def test_a_strategy_that_prepares_ahead_halts_before_the_blackout_and_in_it(stage: Stage) -> None:
    """At the destination before the switch-over, at the source before the notifiers."""
    assert halts(Ahead(), stage) == [AwaitSwitchover, Change, None, None]


def test_the_estimate_is_one_device_after_the_other_by_default() -> None:
    costs = [DeviceCost(asked=2, posted=3, round_trip=10, share=1, besides=5)] * 4
    assert costs[0].in_lockstep == 2 * 10 + 3 * 1 + 5
    assert Recorded().estimate(costs) == 4 * costs[0].in_lockstep
    assert Recorded().estimate([]) == 0


def test_messages_without_a_reply_cost_less_in_flight() -> None:
    cost = DeviceCost(asked=2, posted=2 * POSTED, round_trip=10, share=3)
    assert cost.in_flight == (2 + 2) * 3


def test_a_device_is_a_commit_by_default() -> None:
    assert Recorded().commits(7, 100) == 7


def test_options_are_for_those_that_take_them() -> None:
    """The others are made without; opening and closing does nothing, and nothing is missed."""
    made = Recorded.from_options(StrategyOptions(threads=3, processes=4))
    assert type(made) is Recorded
    made.open()
    made.close()
    made.close()
    assert made.missed(None) == made.missed("an error") == ""


@pytest.mark.parametrize("size", [-1, 0, 257, 1 << 63])
@pytest.mark.parametrize("option", ["threads", "processes"])
def test_the_size_of_a_pool_is_bounded(option: str, size: int) -> None:
    """For each origin of the name: a command line, QMP, or the source of a migration."""
    options = StrategyOptions(**{option: size})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=f"{option}: {size} is not in 1 to"):
        registry.make("split", options)
