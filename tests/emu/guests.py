"""Small guest programs that record their calls, and can be held inside of guest code."""
# ruff: noqa: D102 - the name of a test, or of a part of one, is its documentation

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING

from tests.timeouts import TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Callable


class Recorder:
    """Records every interrupt, tick and beat.

    Args:
        periods: nanoseconds between ticks, by vCPU; a vCPU that is missing has no timer.

    Attributes:
        interrupt, beat: functions that the vCPUs call; a test may replace them.
    """

    def __init__(self, periods: dict[int, int] | None = None) -> None:
        self.interrupt: Callable[[int, int], None] = self.take_interrupt
        self.beat: Callable[[int], None] = self.take_beat
        self.interrupts: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()
        self.ticks: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()
        self.beats: list[int] = []
        self.periods = periods or {}

    def take_interrupt(self, vcpu: int, vector: int) -> None:
        self.interrupts.put((vcpu, vector))

    def tick(self, vcpu: int, now_ns: int) -> int | None:
        self.ticks.put((vcpu, now_ns))
        period = self.periods.get(vcpu)
        return None if period is None else now_ns + period

    def take_beat(self, now_ns: int) -> None:
        self.beats.append(now_ns)

    def next_interrupt(self) -> tuple[int, int]:
        return self.interrupts.get(timeout=TIMEOUT)

    def next_interrupts(self, count: int) -> list[tuple[int, int]]:
        return sorted(self.next_interrupt() for _ in range(count))

    def quiet(self) -> bool:
        """No interrupt comes for a moment."""
        try:
            self.interrupts.get(timeout=0.05)
        except queue.Empty:
            return True
        return False


class Holding(Recorder):
    """Stays inside of an interrupt until `go` is set.

    Args:
        listens: returns the gate's `paused`; guest code then returns early. Without it guest code
            ignores a pause.
    """

    def __init__(self, listens: Callable[[], bool] | None = None) -> None:
        super().__init__()
        self.entered = threading.Semaphore(0)
        self.go = threading.Event()
        self.listens = listens

    def take_interrupt(self, vcpu: int, vector: int) -> None:
        self.entered.release()
        while not self.go.wait(0.001):
            if self.listens and self.listens():
                return
        super().take_interrupt(vcpu, vector)

    def wait_entered(self) -> None:
        assert self.entered.acquire(timeout=TIMEOUT)
