"""The gate that a vCPU thread enters to run guest code; closing it pauses the machine.

A vCPU enters the gate before it runs guest code, and leaves it afterwards. `RunGate.close` keeps
all vCPUs out; a pause then waits for those that are inside. A vCPU that is halted, or that waits
for the gate, is outside already.

No lock guards the sets. Each thread writes its own flag first and reads the other's afterwards
(a vCPU: `inside`, then `paused`; a pause: `paused`, then `inside`), so that at least one of the two
sees the other's. The interpreter runs one bytecode at a time, so that the order is kept and a set
operation is atomic.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from emu.machine.throttle import Throttle
from vhost_user.errors import DeadlineError

if TYPE_CHECKING:
    from collections.abc import Iterable


class RunGate:
    """One gate for all vCPUs of a machine; closed at first.

    Attributes:
        paused: the gate is closed; guest code then returns before its next operation.
        stopping: the vCPUs' threads have to end.
        inside: the vCPUs that run guest code.
        parked: the vCPUs that wait for the gate.
        awaited: the vCPUs that `wait_ran` waits for: they have not run since the gate opened.
        ran_ns: when the last of them had run (CLOCK_MONOTONIC), or when the gate opened if there
            was none.
        throttle: the share of its time that a vCPU stays out of the open gate.
    """

    __slots__ = (
        "_emptied", "_ran", "awaited", "inside", "parked", "paused", "ran_ns", "stopping",
        "throttle",
    )  # fmt: skip

    def __init__(self) -> None:
        self.paused = True
        self.stopping = False
        self.inside: set[int] = set()
        self.parked: set[int] = set()
        self.awaited: set[int] = set()
        self.ran_ns = 0
        self.throttle = Throttle()
        self._emptied = threading.Event()
        self._ran = threading.Event()

    def enter(self, vcpu: int) -> bool:
        """From the vCPU's thread: enter; False if the gate is closed."""
        self.inside.add(vcpu)
        if self.paused:
            self.leave(vcpu)
            return False
        return True

    def leave(self, vcpu: int) -> None:
        """From the vCPU's thread: leave. No effect for a vCPU that is not inside."""
        self.inside.discard(vcpu)
        if self.paused and not self.inside:
            self._emptied.set()

    def ran(self, vcpu: int) -> None:
        """From the vCPU's thread: record its first guest code since the gate opened."""
        self.awaited.discard(vcpu)
        if not self.awaited:
            self.ran_ns = time.monotonic_ns()
            self._ran.set()

    def park(self, vcpu: int) -> bool:
        """From the vCPU's thread: begin to wait for the gate; False if the gate is open.

        `open` returns parked vCPUs, for the caller to wake. A woken vCPU calls `unpark` and reads
        the gate again.
        """
        self.parked.add(vcpu)
        if self.paused and not self.stopping:
            return True
        self.unpark(vcpu)
        return False

    def unpark(self, vcpu: int) -> None:
        """From the vCPU's thread: end the wait for the gate."""
        self.parked.discard(vcpu)

    def close(self) -> list[int]:
        """Keep all vCPUs out; return those that are inside, which the caller may have to kick."""
        self._emptied.clear()
        self.paused = True
        self.awaited.clear()
        return list(self.inside)

    def wait_empty(self, timeout: float) -> None:
        """Wait until no vCPU is inside; the gate is closed.

        Args:
            timeout: seconds.

        Raises:
            DeadlineError: names the vCPUs that are still inside. The gate stays closed.
        """
        _wait_empty(self.inside, self._emptied, timeout, "to leave guest code")

    def open(self, awaited: Iterable[int] = ()) -> list[int]:
        """Open the gate for all vCPUs.

        Args:
            awaited: the vCPUs that must run before `wait_ran` returns.

        Returns:
            The vCPUs that must be woken: those awaited, and those that wait for the gate.
        """
        self._ran.clear()
        # Before the gate opens: from then on one of them may run.
        self.awaited.update(awaited)
        self.ran_ns = time.monotonic_ns()
        self.paused = False
        # A vCPU that parks from here on reads `paused` after that, and does not wait.
        return list(self.awaited | self.parked)

    def wait_ran(self, timeout: float) -> None:
        """Wait until each awaited vCPU has run guest code.

        Args:
            timeout: seconds.

        Raises:
            DeadlineError: names the vCPUs that have not. The gate stays open.
        """
        _wait_empty(self.awaited, self._ran, timeout, "to run again")


def _wait_empty(vcpus: set[int], emptied: threading.Event, timeout: float, what: str) -> None:
    """Wait until no vCPU is in a set.

    Raises:
        DeadlineError: some still are after ``timeout`` seconds; it names them, and ``what``.
    """
    start = time.monotonic()
    while vcpus:
        left = start + timeout - time.monotonic()
        if left <= 0:
            raise DeadlineError(f"{_names(vcpus)} {what}", timeout)
        emptied.wait(left)
        emptied.clear()


def _names(vcpus: set[int]) -> str:
    indices = sorted(vcpus.copy())
    listed = ", ".join(f"vcpu{index}" for index in indices[:4])
    return f"{listed} and {len(indices) - 4} more" if len(indices) > 4 else listed
