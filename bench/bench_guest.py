"""The guest's block driver: completions handled, checked, and the next requests made available.

The device runs in the set-up of a round, in the same thread, so that only the driver is timed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from emu.guest.config import GuestConfig
from emu.guest.layout import BLK_SLOTS, scratch_bytes
from emu.guest.program import GuestProgram
from tests.emu.guest.small_machine import Devices, SmallMachine, small_spec

if TYPE_CHECKING:
    from bench.figures import Figure

RINGS = 4


@pytest.mark.parametrize(
    "event_idx",
    [pytest.param(True, id="event", marks=[pytest.mark.smoke]), pytest.param(False, id="flags")],
)
def test_interrupts_of_a_disk(benchmark: Any, figure: Figure, event_idx: bool) -> None:
    """A round is an interrupt of each ring, with as many completions as the driver has slots."""
    spec = small_spec(net="", blk=f"1x{RINGS}")
    machine = SmallMachine(spec)
    program = GuestProgram(spec, machine, GuestConfig(event_idx=event_idx))
    program.boot()
    devices = Devices(machine, program, {0: bytearray(scratch_bytes(RINGS))})
    program.start_load("heavy")
    program.tick(0, 0)

    def serve() -> tuple[tuple[list[int]], dict[str, Any]]:
        devices.log.clear()
        return (devices.serve_all(),), {}

    def handle(vectors: list[int]) -> None:
        for vector in vectors:
            program.interrupt(0, vector)

    figure.unit, figure.units = "request", RINGS * BLK_SLOTS
    benchmark.pedantic(handle, setup=serve, rounds=500, warmup_rounds=20)
    log = program.request_log()
    assert log.intact
    assert log.requests == log.completed + RINGS * BLK_SLOTS
