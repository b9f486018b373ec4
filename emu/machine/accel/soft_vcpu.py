"""A vCPU of the accelerator without hardware."""

from __future__ import annotations

import os
import threading
from time import monotonic_ns
from typing import TYPE_CHECKING

from emu.errors import EmuError
from emu.machine.accel.base import GuestProgram, Vcpu
from emu.machine.vcpu_state import IDLE, VcpuState

if TYPE_CHECKING:
    from emu.machine.accel.soft_scheduler import SoftHost


class SoftVcpu(Vcpu):
    """One emulated vCPU: a thread that runs the program whenever it is given the processor.

    Args:
        index: the vCPU's number.
        host: its machine's processor.

    Attributes:
        turn: its thread waits here for the processor.
        leads: with the next turn comes the processor alone, and nothing to do.
        queued: it is in the queue of those that are ready.
        alive: its thread has not ended by an error.
        signalled: eventfds of interrupts that have come, not drained.
        due: when its timer is due (CLOCK_MONOTONIC, ns), or None.
        slices: how often it ran.
    """

    __slots__ = (
        "_host", "_pending", "_rerun", "alive", "due", "index", "leads", "queued", "signalled",
        "slices", "turn",
    )  # fmt: skip

    def __init__(self, index: int, host: SoftHost) -> None:
        self.index = index
        self.turn = threading.Lock()
        self.turn.acquire()
        self.leads = False
        self.queued = False
        self.alive = True
        self.signalled: list[int] = []
        self.due: int | None = None
        self.slices = 0
        self._host = host
        self._pending: list[int] = []
        # It left guest code early, or was loaded so: it is not halted.
        self._rerun = False

    def run(self, program: GuestProgram | None) -> None:
        """See `Vcpu.run`."""
        if program is None:
            self.alive = False
            raise EmuError("an emulated vCPU needs a program")
        host, gate, index, beat = self._host, self._host.gate, self.index, program.beat
        runs = host.first(self)
        try:
            while runs:
                if gate.enter(index):
                    beat(monotonic_ns())
                    if gate.owed:
                        gate.ran(index)
                    self._rerun = False
                    self._slice(program)
                    self.slices += 1
                    beat(monotonic_ns())
                    gate.leave(index)
                else:
                    host.again(self)
                runs = host.next(self)
        finally:
            if runs:
                host.retire(self)

    def _slice(self, program: GuestProgram) -> None:
        """Guest code between two halts."""
        index, gate, pending = self.index, self._host.gate, self._pending
        if self.signalled:
            self._acknowledge()
        while pending:
            program.interrupt(index, pending[0])
            if gate.paused:  # it may have returned early: it has the vector once more, first thing
                self._rerun = True
                return
            del pending[0]
        due = self.due
        if due is not None and (now := monotonic_ns()) >= due:
            self._tick(program, now)

    def _tick(self, program: GuestProgram, now: int) -> None:
        self.due = None  # so that an `arm` that comes meanwhile is not overwritten
        due = program.tick(self.index, now)
        if self._host.gate.paused:
            self._rerun = True
            due = now
        if due is not None:
            self.arm(due)

    def _acknowledge(self) -> None:
        """Drain what is signalled, and make interrupts of it."""
        host, pending = self._host, self._pending
        with host.irq_lock:
            fds, self.signalled = self.signalled, []
            for fd in fds:
                vector = host.vector_of(fd, self)
                if vector is None:  # taken away between the signal and here
                    continue
                try:
                    os.eventfd_read(fd)
                except BlockingIOError:
                    continue
                if vector not in pending:
                    pending.append(vector)

    # -- from other threads

    @property
    def runnable(self) -> bool:
        """See `Vcpu.runnable`."""
        return self._rerun

    def save(self) -> VcpuState:
        """See `Vcpu.save`."""
        due = self.due
        if due is None and not self._rerun:
            return IDLE
        timer = None if due is None else max(0, due - monotonic_ns())
        return VcpuState(not self._rerun, tuple(self._pending), timer)

    def load(self, state: VcpuState) -> None:
        """See `Vcpu.load`."""
        self._pending[:] = state.pending
        self._rerun = not state.halted or bool(state.pending)
        self.due = None
        if state.timer_ns is not None:
            self.arm(monotonic_ns() + state.timer_ns)

    def arm(self, due_ns: int) -> None:
        """See `Vcpu.arm`. From the vCPU's own program it costs no wake-up."""
        host = self._host
        with host.timer_lock:
            due = self.due
            if due is not None and due <= due_ns:
                return
            self.due = due_ns
            host.set_timer(due_ns, self.index)
        if self.index not in host.gate.inside:
            host.poke()

    def close(self) -> None:
        """See `Vcpu.close`."""
