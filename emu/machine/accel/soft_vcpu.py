"""A vCPU of the soft accelerator."""

from __future__ import annotations

import threading
from time import monotonic_ns
from typing import TYPE_CHECKING, Protocol

from emu.errors import EmuError
from emu.machine.accel.base import GuestProgram, Vcpu
from emu.machine.vcpu_state import IDLE, VcpuState
from vhost_user import eventfd

if TYPE_CHECKING:
    from emu.machine.run_gate import RunGate


class Scheduler(Protocol):
    """Passes the right to run guest code, the *processor*, to one vCPU at a time.

    Attributes:
        gate: the machine's gate.
        irq_lock: held while a vCPU looks up an eventfd (`vector_of`) and reads it.
        timer_lock: held while a vCPU changes its `due`.
    """

    gate: RunGate
    irq_lock: threading.Lock
    timer_lock: threading.Lock

    def await_first_turn(self, vcpu: SoftVcpu) -> bool:
        """Called when the vCPU's thread starts; returns when the thread has the processor.

        Returns:
            True if the vCPU has to run, False if its thread has to end.
        """

    def await_next_turn(self, vcpu: SoftVcpu) -> bool:
        """Called when the vCPU halts; returns when its thread has the processor again.

        Returns:
            True if the vCPU has to run, False if its thread has to end.
        """

    def run_next(self, vcpu: SoftVcpu) -> None:
        """Make the vCPU the next to run."""

    def release(self, vcpu: SoftVcpu) -> None:
        """Called when the vCPU's thread ends with an error while it has the processor."""

    def vector_of(self, fd: int, vcpu: SoftVcpu) -> int | None:
        """The vector of an eventfd, if it is that vCPU's. The caller holds `irq_lock`."""

    def set_timer(self, due_ns: int, index: int) -> None:
        """Make the vCPU ready at `due_ns` (CLOCK_MONOTONIC), if its `due` is still that then."""

    def poke(self) -> None:
        """Wake the thread that has the processor, if it sleeps."""


class SoftVcpu(Vcpu):
    """One emulated vCPU: a thread that runs the program while it has the processor.

    Args:
        index: its index in the machine.
        scheduler: the machine's scheduler.

    Attributes:
        turn: a lock that its thread acquires to wait for the processor.
        dispatches: its thread gets the processor only to select the next vCPU to run.
        queued: it is in the queue of ready vCPUs.
        crashed: its thread has ended with an error.
        signalled: eventfds of interrupts that were signalled and not read.
        due: when its timer is due (CLOCK_MONOTONIC, ns), or None.
        slices: how often it ran.
    """

    __slots__ = (
        "_pending", "_rerun", "_scheduler", "crashed", "dispatches", "due", "index", "queued",
        "signalled", "slices", "turn",
    )  # fmt: skip

    def __init__(self, index: int, scheduler: Scheduler) -> None:
        self.index = index
        self.turn = threading.Lock()
        self.turn.acquire()
        self.dispatches = False
        self.queued = False
        self.crashed = False
        self.signalled: list[int] = []
        self.due: int | None = None
        self.slices = 0
        self._scheduler = scheduler
        self._pending: list[int] = []
        #: It is not halted: it left guest code early, or the loaded state is not halted.
        self._rerun = False

    def run(self, program: GuestProgram | None) -> None:
        """See `Vcpu.run`."""
        if program is None:
            self.crashed = True
            raise EmuError("an emulated vCPU needs a program")
        scheduler, index, beat = self._scheduler, self.index, program.beat
        gate = scheduler.gate
        runs = scheduler.await_first_turn(self)
        try:
            while runs:
                if gate.enter(index):
                    beat(monotonic_ns())
                    if gate.awaited:
                        gate.ran(index)
                    self._rerun = False
                    self._slice(program)
                    self.slices += 1
                    beat(monotonic_ns())
                    gate.leave(index)
                else:
                    scheduler.run_next(self)
                runs = scheduler.await_next_turn(self)
        finally:
            if runs:
                scheduler.release(self)

    def _slice(self, program: GuestProgram) -> None:
        """Run guest code from one halt to the next."""
        index, gate, pending = self.index, self._scheduler.gate, self._pending
        if self.signalled:
            self._acknowledge()
        while pending:
            program.interrupt(index, pending[0])
            if gate.paused:  # it may have returned early: it is called again after the resume
                self._rerun = True
                return
            del pending[0]
        due = self.due
        if due is not None and (now := monotonic_ns()) >= due:
            self._tick(program, now)

    def _tick(self, program: GuestProgram, now: int) -> None:
        self.due = None  # so that a concurrent `arm` is not overwritten
        due = program.tick(self.index, now)
        if self._scheduler.gate.paused:
            self._rerun = True
            due = now
        if due is not None:
            self.arm(due)

    def _acknowledge(self) -> None:
        """Read the signalled eventfds, and queue their interrupts."""
        scheduler, pending = self._scheduler, self._pending
        with scheduler.irq_lock:
            fds, self.signalled = self.signalled, []
            for fd in fds:
                vector = scheduler.vector_of(fd, self)
                if vector is None:  # it was deassigned after the signal
                    continue
                if not eventfd.take(fd):
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
        """See `Vcpu.arm`. A call from the vCPU's own program needs no wake-up."""
        scheduler = self._scheduler
        with scheduler.timer_lock:
            due = self.due
            if due is not None and due <= due_ns:
                return
            self.due = due_ns
            scheduler.set_timer(due_ns, self.index)
        if self.index not in scheduler.gate.inside:
            scheduler.poke()

    def close(self) -> None:
        """See `Vcpu.close`."""
