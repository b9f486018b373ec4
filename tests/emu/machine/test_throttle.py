"""A throttled guest stays out of guest code for a part of its time."""
# ruff: noqa: D102, D103 - the names describe them

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.pacing import Pacer
from emu.config.vm_spec import VmSpec
from emu.errors import EmuError
from emu.machine.machine import Machine
from emu.machine.throttle import PERIOD_NS, Throttle
from tests.emu.guests import Recorder
from tests.timeouts import TIMEOUT
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator


@given(percent=st.integers(0, 99), start=st.integers(0, 1 << 60))
def test_a_vcpu_stays_out_for_its_percentage_of_a_period(percent: int, start: int) -> None:
    throttle = Throttle()
    throttle.percent = percent
    step = PERIOD_NS // 100
    begin = start // step * step
    out = [throttle.stay_out_ns(begin + n * step) for n in range(100)]
    assert sum(ns > 0 for ns in out) == percent
    for at, ns in enumerate(out):
        assert not ns or throttle.stay_out_ns(begin + at * step + ns) == 0


@pytest.fixture
def running() -> Iterator[tuple[Machine, Recorder]]:
    guest = Recorder(periods={0: 200_000})
    machine = Machine(VmSpec(2, 64 << 20), pacer=Pacer())
    machine.start_vcpus(guest)
    machine.resume(TIMEOUT)
    yield machine, guest
    machine.close()


class Counting(Throttle):
    """A throttled vCPU stays out for 20 ms; counts how often one reads that."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0

    def stay_out_ns(self, now_ns: int) -> int:
        assert now_ns > 0
        self.reads += 1
        return 20_000_000


def test_a_throttled_guest_stays_out_until_the_throttling_ends(
    running: tuple[Machine, Recorder],
) -> None:
    """It runs once after each interval outside."""
    machine, guest = running
    throttle = machine.vcpus.gate.throttle = Counting()
    wait_until(lambda: guest.ticks.qsize() > 10)
    machine.vcpus.throttle(90)
    wait_until(lambda: throttle.reads)
    reads, seen = throttle.reads, guest.ticks.qsize()
    wait_until(lambda: throttle.reads > reads + 5)
    ran = guest.ticks.qsize() - seen
    assert 0 < ran <= throttle.reads - reads + 1
    machine.vcpus.throttle(0)
    wait_until(lambda: guest.ticks.qsize() > seen + ran + 10)


def test_a_throttled_guest_pauses_resumes_and_ends(
    running: tuple[Machine, Recorder],
) -> None:
    machine, guest = running

    def more_ticks_than(seen: int) -> bool:
        return guest.ticks.qsize() > seen

    machine.vcpus.throttle(99)
    for _ in range(10):
        machine.pause(TIMEOUT)
        seen = guest.ticks.qsize()
        machine.resume(TIMEOUT)
        wait_until(partial(more_ticks_than, seen))
    machine.stop(TIMEOUT)


@pytest.mark.parametrize("percent", [-1, 100])
def test_a_throttle_that_is_not_a_percentage_below_100_is_an_error(
    running: tuple[Machine, Recorder], percent: int
) -> None:
    with pytest.raises(EmuError, match="not within 0 to 99"):
        running[0].vcpus.throttle(percent)
