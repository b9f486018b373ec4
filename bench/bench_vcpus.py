"""Pausing and resuming the vCPUs of the soft accelerator, halted and busy.

Here are the bounds of it, too: a pause of halted vCPUs asks none of them, and vCPUs that are busy
do not compete for the interpreter with the thread that pauses them.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.emu.machine.soft_vcpus import SoftVcpus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bench.figures import Figure
    from emu.machine.vcpus import VcpuSet

#: The vCPUs of the RFC's VM.
VCPUS = 224
ROUNDS = 20
TIMEOUT = 10.0
#: Seconds. Threads that competed for the interpreter would need 10 to 100 times as long.
MOST = {"halted": 100e-6, "busy": 5e-3}


class Guest:
    """Interrupts that cause the next one, if the guest is busy."""

    def __init__(self, call: Callable[[int], None] | None) -> None:
        self._call = call

    def interrupt(self, vcpu: int, vector: int) -> None:  # noqa: ARG002  the accelerator's
        """Work for a short time, and raise the next interrupt."""
        if self._call is not None:
            sum(range(200))
            self._call(vcpu)

    def tick(self, vcpu: int, now_ns: int) -> int | None:  # noqa: ARG002  the accelerator's
        """No timer."""
        return None

    def beat(self, now_ns: int) -> None:
        """Nothing."""


@pytest.fixture(params=["halted", "busy"])
def running(request: pytest.FixtureRequest) -> Iterator[tuple[str, VcpuSet]]:
    """The state of the vCPUs (halted or busy), and all of them."""
    made = SoftVcpus(VCPUS)
    busy = request.param == "busy"
    made.run(Guest(made.signal if busy else None))
    for vcpu in range(VCPUS):
        if busy:
            made.signal(vcpu)
    yield request.param, made.vcpus
    made.close()


@pytest.mark.parametrize("step", [pytest.param("pause", marks=pytest.mark.smoke), "resume"])
def test_vcpus(benchmark: Any, figure: Figure, running: tuple[str, VcpuSet], step: str) -> None:
    """All of them at once."""
    what, vcpus = running
    figure.unit, figure.units = "vcpu", VCPUS
    calls: dict[str, Callable[[], None]] = {
        "pause": lambda: vcpus.pause(TIMEOUT),
        "resume": lambda: vcpus.resume(TIMEOUT),
    }
    work = threading.Event()

    def undo() -> None:
        calls["resume" if step == "pause" else "pause"]()
        work.wait(0.002)

    if step == "pause":
        calls["pause"]()
    benchmark.pedantic(calls[step], setup=undo, rounds=ROUNDS)
    vcpus.resume(TIMEOUT)
    if benchmark.stats is not None:
        stats = benchmark.stats.stats
        assert (stats.min if what == "halted" else stats.median) < MOST[what]
