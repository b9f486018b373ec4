"""The run gate alone: the possible orders of events between a vCPU and a pause."""
# ruff: noqa: D103 - the name of a test, or of a part of one, is its documentation

from __future__ import annotations

import threading

import pytest

from emu.machine.run_gate import RunGate
from tests.timeouts import TIMEOUT
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


def test_close_returns_the_vcpus_inside(gate: RunGate) -> None:
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
    gate.wait_empty(TIMEOUT)
    assert not gate.inside
    leaving.join()


def test_wait_empty_names_the_vcpus_inside(gate: RunGate) -> None:
    for vcpu in range(6):
        gate.enter(vcpu)
    gate.close()
    with pytest.raises(DeadlineError, match="vcpu0, vcpu1, vcpu2, vcpu3 and 2 more"):
        gate.wait_empty(0.01)
    assert gate.paused


def test_a_vcpu_that_cannot_enter_is_not_inside(gate: RunGate) -> None:
    gate.close()
    assert not gate.enter(0)
    gate.wait_empty(0)


def test_open_returns_the_awaited_and_the_parked_vcpus(gate: RunGate) -> None:
    gate.close()
    assert gate.park(1)
    assert sorted(gate.open(awaited=[4])) == [1, 4]


def test_no_vcpu_parks_at_an_open_gate(gate: RunGate) -> None:
    assert not gate.park(1)
    assert not gate.parked


def test_wait_ran_waits_for_awaited_vcpus_only(gate: RunGate) -> None:
    gate.close()
    gate.park(1)
    gate.open(awaited=[4])
    running = threading.Timer(0.02, gate.ran, [4])
    running.start()
    gate.wait_ran(TIMEOUT)
    running.join()


def test_wait_ran_names_the_vcpus_that_did_not_run(gate: RunGate) -> None:
    gate.close()
    gate.open(awaited=[4])
    with pytest.raises(DeadlineError, match="vcpu4 to run again"):
        gate.wait_ran(0.01)


def test_a_second_pause_clears_the_awaited_vcpus(gate: RunGate) -> None:
    gate.close()
    gate.open(awaited=[4])
    gate.close()
    gate.open()
    gate.wait_ran(0)
