"""When to switch over, with numbers alone: a guest and a link of whatever speed, and no clock."""
# ruff: noqa: D103 - the names say what they do

from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.machine.throttle import MAX_PERCENT
from emu.migration.convergence import (
    MAX_ROUNDS,
    PROGRESS,
    Action,
    Convergence,
    Decision,
    Expected,
    Reason,
    Round,
    explain,
)

MIB = 1 << 20
MS = 1_000_000
S = 1_000 * MS
NOTHING = Expected()


class Guest(NamedTuple):
    """Memory that is written at a rate, and sent over a link whose rate may be limited."""

    memory: int
    working_set: int
    dirty_rate: int
    bandwidth: int
    limit: int = 0

    def rounds(self, convergence: Convergence, devices: Expected = NOTHING) -> list[Decision]:
        """All decisions, up to the one that there is no further round."""
        decisions: list[Decision] = []
        size = self.memory
        while not decisions or decisions[-1].action in (Action.GO_ON, Action.THROTTLE):
            assert len(decisions) < MAX_ROUNDS
            sending = size * S // self.bandwidth
            ns = max(sending, size * S // self.limit if self.limit else 0) + 1000
            running = 100 - convergence.throttle
            left = min(self.working_set, self.dirty_rate * running // 100 * ns // S)
            decisions.append(convergence.decide(Round(size, left, ns, ns, sending), devices))
            size = left
        return decisions


def test_a_quiet_guest_is_switched_over_after_the_first_round() -> None:
    guest = Guest(512 * MIB, 64 * MIB, 1 * MIB, 1024 * MIB)
    (only,) = guest.rounds(Convergence(300 * MS))
    assert (only.action, only.reason) == (Action.SWITCH, Reason.CONVERGED)
    assert only.outlook.downtime_ns < 2 * MS


def test_memory_is_expected_at_the_links_own_speed_and_not_at_the_limits() -> None:
    guest = Guest(100 * MIB, 100 * MIB, 10 * MIB, 1000 * MIB, limit=100 * MIB)
    (only,) = guest.rounds(Convergence(300 * MS))
    assert only.outlook.memory_ns == pytest.approx(10 * MS, rel=0.01)
    assert only.outlook.rate == pytest.approx(100 * MIB, rel=0.01)
    assert only.outlook.dirty_rate == pytest.approx(10 * MIB, rel=0.01)


def test_rounds_go_on_for_as_long_as_they_get_somewhere() -> None:
    guest = Guest(1024 * MIB, 1024 * MIB, 50 * MIB, 100 * MIB)
    decisions = guest.rounds(Convergence(100 * MS))
    assert [d.action for d in decisions[:-1]] == [Action.GO_ON] * (len(decisions) - 1)
    assert decisions[-1].reason is Reason.CONVERGED
    assert 5 < len(decisions) < 12


@pytest.mark.parametrize("abort", [False, True])
def test_what_does_not_converge_is_said_with_its_numbers(*, abort: bool) -> None:
    guest = Guest(256 * MIB, 64 * MIB, 200 * MIB, 1024 * MIB, limit=20 * MIB)
    last = guest.rounds(Convergence(5 * MS, abort=abort))[-1]
    assert last.action is (Action.GIVE_UP if abort else Action.SWITCH)
    assert last.reason is Reason.NO_PROGRESS
    text = explain(last, 5 * MS)
    assert "20.0 MiB/s are sent" in text
    assert "a downtime of 62.5 ms is expected" in text
    assert "the limit is 5.0 ms" in text
    for option in ("--downtime-limit", "--max-bandwidth", "--auto-converge"):
        assert option in text


def test_devices_alone_above_the_limit_end_it_without_waiting_for_memory() -> None:
    guest = Guest(256 * MIB, MIB // 2, 200 * MIB, 1024 * MIB)
    decisions = guest.rounds(Convergence(300 * MS), Expected(stop=210 * MS, start=120 * MS))
    assert len(decisions) == 1
    assert decisions[0].reason is Reason.DEVICES
    assert "the devices alone take longer" in explain(decisions[0], 300 * MS)


def test_device_time_counts_where_memory_alone_would_do() -> None:
    done = Round(100 * MIB, 20 * MIB, S, S, S)
    assert Convergence(300 * MS).decide(done, Expected()).action is Action.SWITCH
    devices = Expected(stop=60 * MS, start=50 * MS)
    assert Convergence(300 * MS).decide(done, devices).action is Action.GO_ON


def test_auto_converge_slows_the_guest_down_step_by_step_until_it_does() -> None:
    guest = Guest(256 * MIB, 64 * MIB, 50 * MIB, 1024 * MIB, limit=20 * MIB)
    decisions = guest.rounds(Convergence(5 * MS, auto_converge=True))
    steps = [d.outlook.throttle for d in decisions if d.action is Action.THROTTLE]
    assert steps == list(range(20, steps[-1] + 10, 10))
    assert 60 <= steps[-1] <= MAX_PERCENT
    assert decisions[-1].reason is Reason.CONVERGED


def test_no_throttle_goes_beyond_the_most_there_is() -> None:
    guest = Guest(64 * MIB, 64 * MIB, 1 << 50, 1024 * MIB)
    last = guest.rounds(Convergence(5 * MS, auto_converge=True))[-1]
    assert last.outlook.throttle == MAX_PERCENT
    assert last.reason in (Reason.NO_PROGRESS, Reason.ROUNDS)
    assert f"at a throttle of {MAX_PERCENT}%" in explain(last, 5 * MS)


RATES = st.integers(0, 1 << 36)


@given(
    guest=st.builds(
        Guest,
        memory=st.integers(0, 1 << 40),
        working_set=st.integers(0, 1 << 36),
        dirty_rate=RATES,
        bandwidth=st.integers(1, 1 << 36),
        limit=RATES,
    ),
    devices=st.builds(Expected, *[st.integers(0, S)] * 3),
    limit_ns=st.integers(0, 2 * S),
    auto_converge=st.booleans(),
    abort=st.booleans(),
)
def test_whatever_the_guest_does(
    guest: Guest, devices: Expected, limit_ns: int, *, auto_converge: bool, abort: bool
) -> None:
    """It comes to an end, and the end is what was asked for."""
    convergence = Convergence(limit_ns, auto_converge=auto_converge, abort=abort)
    decisions = guest.rounds(convergence, devices)
    assert len(decisions) <= MAX_ROUNDS
    *before, last = decisions
    assert all(d.reason is None for d in before)
    assert (last.reason is Reason.CONVERGED) is (last.outlook.downtime_ns <= limit_ns)
    assert all(d.outlook.downtime_ns > limit_ns for d in before)
    assert bool(explain(last, limit_ns)) is (last.reason is not Reason.CONVERGED)
    if last.reason is Reason.CONVERGED or not abort:
        assert last.action is Action.SWITCH
    else:
        assert last.action is Action.GIVE_UP
    throttles = [d.outlook.throttle for d in decisions]
    assert throttles == sorted(throttles)
    assert throttles[-1] <= (MAX_PERCENT if auto_converge else 0)
    if sum(devices) > limit_ns:
        assert last.reason is Reason.DEVICES
        assert throttles[-1] == 0


def test_a_round_that_leaves_nearly_as_much_is_no_progress() -> None:
    """What a guest writes over and over never gets less: two such rounds are enough."""
    convergence = Convergence(1, abort=True)
    size = 100 * MIB
    actions = []
    for _ in range(2):
        left = int(size * (PROGRESS + 0.05))
        actions.append(convergence.decide(Round(size, left, S, S, S), Expected()).action)
        size = left
    assert actions == [Action.GO_ON, Action.GIVE_UP]
