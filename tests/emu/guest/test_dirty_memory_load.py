"""The guest program that dirties memory at a given rate."""
# ruff: noqa: D103 - the name of a test is its documentation

from __future__ import annotations

import pytest

from emu.errors import EmuError
from emu.guest.program import GuestProgram
from tests.emu.guest.small_machine import SmallMachine, small_spec
from tests.timeouts import TIMEOUT
from vhost_user.memory import PAGE_SIZE

TICK = 1_000_000


def booted(rate: int) -> tuple[SmallMachine, GuestProgram]:
    machine = SmallMachine(small_spec())
    program = GuestProgram(machine.spec, machine)
    program.boot()
    program.set_dirty_rate(rate)
    program.start_load("none")
    machine.ram.harvest()
    machine.ram.harvest()
    return machine, program


def written_pages(machine: SmallMachine, program: GuestProgram) -> set[int]:
    start, size = program.layout.dirty_memory
    pages = range(start // PAGE_SIZE, (start + size) // PAGE_SIZE)
    return {page for page in machine.ram.harvest() if page in pages}


def test_writes_at_the_rate_whatever_the_ticks() -> None:
    machine, program = booted(40 << 20)
    for tick in range(1, 101):
        program.tick(0, tick * TICK)
    written = len(written_pages(machine, program)) * PAGE_SIZE
    assert written == pytest.approx(4 << 20, rel=0.1)


def test_a_guest_that_did_not_run_does_not_catch_up() -> None:
    machine, program = booted(40 << 20)
    for tick in range(1, 11):
        program.tick(0, tick * 10 * TICK)
    assert len(written_pages(machine, program)) * PAGE_SIZE <= (40 << 20) * 11 * 2 // 1000


def test_writes_nothing_without_a_rate_nor_at_rest() -> None:
    machine, program = booted(0)
    program.tick(0, TICK)
    program.tick(0, 2 * TICK)
    assert not written_pages(machine, program)
    program.set_dirty_rate(1 << 30)
    assert program.quiesce(TIMEOUT) == 0
    program.tick(0, 3 * TICK)
    assert not written_pages(machine, program)


def test_a_slow_rate_is_not_none_at_all() -> None:
    machine, program = booted(PAGE_SIZE * 1000)
    for tick in range(1, 51):
        program.tick(0, tick * TICK)
    assert 40 <= len(written_pages(machine, program)) <= 50


def test_a_page_with_an_older_copy_is_corrupted() -> None:
    machine, program = booted(1 << 30)
    start, size = program.layout.dirty_memory
    ticks = size // PAGE_SIZE // 250 + 5
    for tick in range(1, ticks):
        program.tick(0, tick * TICK)
    assert program.request_log().corrupted == 0
    machine.ram.view(start + 300 * PAGE_SIZE, 8)[:] = bytes(8)
    for tick in range(ticks, 3 * ticks):
        program.tick(0, tick * TICK)
    assert program.request_log().corrupted == 1


def test_stops_in_the_middle_when_the_vcpus_are_to_pause() -> None:
    machine, program = booted(1 << 30)
    program.tick(0, TICK)
    machine.paused = True
    machine.ram.harvest()
    program.tick(0, 3 * TICK)
    assert not written_pages(machine, program)


def test_a_vm_without_room_for_the_load_is_an_error() -> None:
    _machine, program = booted(0)
    program._workload.dirty_memory.pages = 0
    with pytest.raises(EmuError, match="no room"):
        program.set_dirty_rate(1)
