"""Waking the thread that runs guest code for a whole machine."""
# ruff: noqa: D103 - the name of a test, or of a part of one, is its documentation

from __future__ import annotations

import select
import threading
from typing import TYPE_CHECKING

import pytest

from emu.machine.accel.poke import Poke
from emu.machine.run_gate import RunGate
from tests.timeouts import TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Iterator

LONG_NS = int(TIMEOUT * 1e9)


@pytest.fixture
def poke() -> Iterator[Poke]:
    made = Poke()
    yield made
    made.close()


def _signalled(poke: Poke) -> bool:
    poll = select.poll()
    poll.register(poke.fd, select.POLLIN)
    return bool(poll.poll(0))


def test_a_wait_without_a_signal_expires(poke: Poke) -> None:
    assert not poke.wait(0)
    assert not poke.wait(1)


@pytest.mark.parametrize("signals", [1, 3])
def test_signals_before_a_wait_end_it_and_are_seen_once(poke: Poke, signals: int) -> None:
    for _ in range(signals):
        poke.signal()
    assert poke.wait(LONG_NS)
    assert not poke.wait(1)


def test_draining_without_a_signal_does_not_block(poke: Poke) -> None:
    poke.drain()
    poke.signal()
    poke.drain()
    assert not _signalled(poke)


@pytest.mark.parametrize("change", ["open", "stopping"])
def test_a_thread_leaves_the_gate_when_it_opens_or_stops(poke: Poke, change: str) -> None:
    gate = RunGate()
    thread = threading.Thread(target=poke.wait_for_gate, args=(gate, 0), daemon=True)
    thread.start()
    poke.signal()  # the gate is as it was: the thread waits on
    thread.join(0.05)
    assert thread.is_alive()
    if change == "open":
        gate.open([])
    else:
        gate.stopping = True
    poke.signal()
    thread.join(TIMEOUT)
    assert not thread.is_alive()


def test_a_gate_that_is_open_is_not_waited_for(poke: Poke) -> None:
    gate = RunGate()
    gate.open([])
    poke.wait_for_gate(gate, 0)
