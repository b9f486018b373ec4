"""The gate by itself, driven by hand: every order of events that two sides can meet in."""
# ruff: noqa: D103 - the name of a test, or of a part of one, is its documentation

from __future__ import annotations

import threading

import pytest

from emu.machine.run_gate import RunGate
from vhost_user.errors import DeadlineError


@pytest.fixture
def gate() -> RunGate:
    gate = RunGate()
    gate.open()
    return gate


def test_a_new_gate_is_closed() -> None:
    gate = RunGate()
    assert gate.paused
    assert not gate.enter(0)
    assert not gate.inside


def test_close_tells_who_is_inside(gate: RunGate) -> None:
    gate.enter(3)
    gate.enter(5)
    gate.leave(5)
    assert gate.close() == [3]


def test_wait_empty_ends_when_the_last_one_leaves(gate: RunGate) -> None:
    gate.enter(0)
    gate.enter(1)
    gate.close()
    gate.leave(0)
    leaving = threading.Timer(0.02, gate.leave, [1])
    leaving.start()
    gate.wait_empty(5)
    assert not gate.inside
    leaving.join()


def test_wait_empty_names_who_stays(gate: RunGate) -> None:
    for vcpu in range(6):
        gate.enter(vcpu)
    gate.close()
    with pytest.raises(DeadlineError, match="vcpu0, vcpu1, vcpu2, vcpu3 and 2 more"):
        gate.wait_empty(0.01)
    assert gate.paused


def test_one_that_is_refused_does_not_count_as_inside(gate: RunGate) -> None:
    gate.close()
    assert not gate.enter(0)
    gate.wait_empty(0)


def test_open_wakes_who_is_owed_and_who_waits(gate: RunGate) -> None:
    gate.close()
    assert gate.park(1)
    assert sorted(gate.open(awaited=[4])) == [1, 4]


def test_no_vcpu_parks_at_an_open_gate(gate: RunGate) -> None:
    assert not gate.park(1)
    assert not gate.parked


def test_wait_ran_waits_for_those_owed_only(gate: RunGate) -> None:
    gate.close()
    gate.park(1)
    gate.open(awaited=[4])
    running = threading.Timer(0.02, gate.ran, [4])
    running.start()
    gate.wait_ran(5)
    running.join()


def test_wait_ran_names_who_did_not(gate: RunGate) -> None:
    gate.close()
    gate.open(awaited=[4])
    with pytest.raises(DeadlineError, match="vcpu4 to run again"):
        gate.wait_ran(0.01)


def test_a_second_pause_forgives_what_is_owed(gate: RunGate) -> None:
    gate.close()
    gate.open(awaited=[4])
    gate.close()
    gate.open()
    gate.wait_ran(0)
