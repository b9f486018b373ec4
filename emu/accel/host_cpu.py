"""The processor that emulated vCPUs share."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from emu.gate import Gate

#: Seconds after which a vCPU that waits for its turn looks whether it is to end.
PATIENCE = 0.5


class HostCpu:
    """One vCPU runs guest code at a time; the others wait for their turn at a safe point.

    CPython runs the bytecode of one thread at a time anyway. Without turns, all vCPUs that have
    something to do would be inside of guest code and wait for the interpreter in the middle of it,
    and a pause would have to wait for each of them to come out.

    While the gate is closed the turn is kept: nobody who waits for it is woken, because all he
    could do is to find the gate closed, at the cost of the thread that runs the migration.

    Args:
        gate: the machine's.
    """

    __slots__ = ("_gate", "_kept", "_turn")

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._turn = threading.Lock()
        # Holds one element while the turn is kept; taking it out is the right to end that.
        self._kept: list[None] = []

    def enter(self, vcpu: int) -> bool:
        """From the vCPU's thread: wait for the turn and pass the gate; False: it is closed."""
        while not self._gate.stopping:
            # Not for ever: guest code that never comes out must not keep the others from ending.
            if self._turn.acquire(timeout=PATIENCE):
                break
        else:
            return False
        if self._gate.enter(vcpu):
            return True
        self._keep()
        return False

    def leave(self, vcpu: int) -> None:
        """From the vCPU's thread, after `enter` was true: come out and pass the turn on."""
        self._gate.leave(vcpu)
        if self._gate.paused:
            self._keep()
        else:
            self._turn.release()

    def _keep(self) -> None:
        self._kept.append(None)
        if not self._gate.paused or self._gate.stopping:
            # It was opened between the look at the gate and here, and found nothing kept.
            self.open()

    def open(self) -> None:
        """The gate has been opened, or the threads are to end: pass the turn on."""
        try:
            self._kept.pop()
        except IndexError:
            return
        self._turn.release()
