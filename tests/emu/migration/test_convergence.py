"""When to switch over, with numbers alone: a guest and a link of any speed, and no clock."""
# ruff: noqa: D103 - the names describe them

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
    DeviceDowntime,
    Reason,
    Round,
    explain,
)

MIB = 1 << 20
MS = 1_000_000
S = 1_000 * MS
NOTHING = DeviceDowntime()


class Guest(NamedTuple):
    """Memory that is written at one rate and sent at another, which may be limited."""

    memory: int
    working_set: int
    dirty_rate: int
    bandwidth: int
    limit: int = 0

    def rounds(self, convergence: Convergence, devices: DeviceDowntime = NOTHING) -> list[Decision]:
        """All decisions, up to the last one, after which there is no further round."""
        decisions: list[Decision] = []
        size = self.memory
        while not decisions or decisions[-1].action in (Action.CONTINUE, Action.THROTTLE):
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
    assert only.estimate.downtime_ns < 2 * MS


def test_the_switchover_is_expected_at_the_links_speed_without_the_limit() -> None:
    guest = Guest(100 * MIB, 100 * MIB, 10 * MIB, 1000 * MIB, limit=100 * MIB)
    (only,) = guest.rounds(Convergence(300 * MS))
    assert only.estimate.memory_ns == pytest.approx(10 * MS, rel=0.01)
    assert only.estimate.rate == pytest.approx(100 * MIB, rel=0.01)
    assert only.estimate.dirty_rate == pytest.approx(10 * MIB, rel=0.01)


def test_rounds_continue_while_they_make_progress() -> None:
    guest = Guest(1024 * MIB, 1024 * MIB, 50 * MIB, 100 * MIB)
    decisions = guest.rounds(Convergence(100 * MS))
    assert [d.action for d in decisions[:-1]] == [Action.CONTINUE] * (len(decisions) - 1)
    assert decisions[-1].reason is Reason.CONVERGED
    assert 5 < len(decisions) < 12


@pytest.mark.parametrize("abort", [False, True])
def test_the_text_without_convergence_has_the_numbers(*, abort: bool) -> None:
    guest = Guest(256 * MIB, 64 * MIB, 200 * MIB, 1024 * MIB, limit=20 * MIB)
    last = guest.rounds(Convergence(5 * MS, abort=abort))[-1]
    assert last.action is (Action.FAIL if abort else Action.SWITCH)
    assert last.reason is Reason.NO_PROGRESS
    text = explain(last, 5 * MS)
    assert "20.0 MiB/s are sent" in text
    assert "a downtime of 62.5 ms is expected" in text
    assert "the limit is 5.0 ms" in text
    for option in ("--downtime-limit", "--max-bandwidth", "--auto-converge"):
        assert option in text


def test_devices_alone_above_the_limit_end_the_rounds() -> None:
    guest = Guest(256 * MIB, MIB // 2, 200 * MIB, 1024 * MIB)
    decisions = guest.rounds(Convergence(300 * MS), DeviceDowntime(stop=210 * MS, start=120 * MS))
    assert len(decisions) == 1
    assert decisions[0].reason is Reason.DEVICES
    assert "the devices alone take longer" in explain(decisions[0], 300 * MS)


def test_device_time_counts_if_memory_alone_is_within_the_limit() -> None:
    done = Round(100 * MIB, 20 * MIB, S, S, S)
    assert Convergence(300 * MS).decide(done, DeviceDowntime()).action is Action.SWITCH
    devices = DeviceDowntime(stop=60 * MS, start=50 * MS)
    assert Convergence(300 * MS).decide(done, devices).action is Action.CONTINUE


def test_auto_converge_throttles_the_guest_step_by_step_until_memory_converges() -> None:
    guest = Guest(256 * MIB, 64 * MIB, 50 * MIB, 1024 * MIB, limit=20 * MIB)
    decisions = guest.rounds(Convergence(5 * MS, auto_converge=True))
    steps = [d.estimate.throttle for d in decisions if d.action is Action.THROTTLE]
    assert steps == list(range(20, steps[-1] + 10, 10))
    assert 60 <= steps[-1] <= MAX_PERCENT
    assert decisions[-1].reason is Reason.CONVERGED


def test_the_throttle_does_not_exceed_its_maximum() -> None:
    guest = Guest(64 * MIB, 64 * MIB, 1 << 50, 1024 * MIB)
    last = guest.rounds(Convergence(5 * MS, auto_converge=True))[-1]
    assert last.estimate.throttle == MAX_PERCENT
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
    devices=st.builds(DeviceDowntime, *[st.integers(0, S)] * 3),
    limit_ns=st.integers(0, 2 * S),
    auto_converge=st.booleans(),
    abort=st.booleans(),
)
def test_rounds_end_with_the_configured_action(
    guest: Guest, devices: DeviceDowntime, limit_ns: int, *, auto_converge: bool, abort: bool
) -> None:
    """For any guest and link."""
    convergence = Convergence(limit_ns, auto_converge=auto_converge, abort=abort)
    decisions = guest.rounds(convergence, devices)
    assert len(decisions) <= MAX_ROUNDS
    *before, last = decisions
    assert all(d.reason is None for d in before)
    assert (last.reason is Reason.CONVERGED) is (last.estimate.downtime_ns <= limit_ns)
    assert all(d.estimate.downtime_ns > limit_ns for d in before)
    assert bool(explain(last, limit_ns)) is (last.reason is not Reason.CONVERGED)
    if last.reason is Reason.CONVERGED or not abort:
        assert last.action is Action.SWITCH
    else:
        assert last.action is Action.FAIL
    throttles = [d.estimate.throttle for d in decisions]
    assert throttles == sorted(throttles)
    assert throttles[-1] <= (MAX_PERCENT if auto_converge else 0)
    if sum(devices) > limit_ns:
        assert last.reason is Reason.DEVICES
        assert throttles[-1] == 0


def test_a_round_after_which_nearly_as_much_is_dirty_is_no_progress() -> None:
    """Two such rounds end pre-copy."""
    convergence = Convergence(1, abort=True)
    size = 100 * MIB
    actions = []
    for _ in range(2):
        left = int(size * (PROGRESS + 0.05))
        actions.append(convergence.decide(Round(size, left, S, S, S), DeviceDowntime()).action)
        size = left
    assert actions == [Action.CONTINUE, Action.FAIL]
