"""Stops and starts, with their rows."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import pytest

from emu.tap.transitions import Kind, Phase, Transition, phase_of
from tests.emu.tap.talk import TICK, F, Talk
from tests.emu.tap.test_transition_finder import TABLE, Vm
from vhost_user.payloads import U64, VringAddr, VringState


def test_a_stop_in_flight_overlaps() -> None:
    """All requests of all devices before the first reply."""
    vm = Vm("a", "b", "c")
    for talk in vm.talks.values():
        for ring in range(2):
            talk.ask(F.GET_VRING_BASE, VringState(ring, 0))
    for talk in vm.talks.values():
        for ring in range(2):
            talk.answer(F.GET_VRING_BASE, VringState(ring, 0))
    vm.finder.finish()
    (stop,) = vm.found
    (row,) = stop.rows
    assert (row.at_once, row.messages, row.wall) == (3, 6, 11 * TICK)


@pytest.mark.parametrize(
    ("number", "num", "phase"),
    [
        (F.SET_VRING_ENABLE, 0, Phase.DISABLE_VRINGS),
        (F.SET_VRING_ENABLE, 1, Phase.START_VRINGS),
        (F.GET_VRING_BASE, 0, Phase.GET_VRING_BASE),
        (F.SET_VRING_NUM, 1, Phase.START_VRINGS),
    ],
)
def test_the_row_of_a_message(number: F, num: int, phase: Phase) -> None:
    talk = Talk()
    talk.ask(number, VringState(0, num))
    (message,) = talk.messages
    assert phase_of(message) is phase


def test_a_ring_is_set_up_by_its_base_addresses_and_kick() -> None:
    """A start before the blackout lacks some of them."""
    talk = Talk()
    made = Transition(Kind.START)
    talk.ask(F.SET_MEM_TABLE, TABLE, fds=1)
    talk.ask(F.SET_VRING_KICK, U64(3), fds=1)
    talk.ask(F.SET_VRING_BASE, VringState(3, 0))
    talk.ask(F.SET_VRING_ADDR, VringAddr(3, 0, 0, 0, 0, 0))
    found = []
    given: set[int] = set()
    for message in talk.messages:
        phase = phase_of(message)
        assert phase is not None
        given.add(message.id)
        made.add(message, phase, given if message.ring is not None else None)
        found.append((made.rings_set_up, made.is_ahead))
    assert found == [(0, True), (0, True), (0, True), (1, False)]
    assert (made.rings, made.latest) == (1, 4 * TICK)
