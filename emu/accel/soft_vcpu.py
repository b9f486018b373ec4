"""A vCPU of the accelerator without hardware."""

from __future__ import annotations

import os
import select
import threading
from contextlib import suppress
from time import monotonic_ns
from typing import TYPE_CHECKING

from emu.accel import GuestProgram, Vcpu
from emu.errors import EmuError
from emu.vcpu_state import IDLE, VcpuState

if TYPE_CHECKING:
    from emu.accel.host_cpu import HostCpu
    from emu.gate import Gate

_WAKE = -1
_SECONDS_PER_NS = 1e-9


class SoftVcpu(Vcpu):
    """One emulated vCPU: halts in epoll_wait, runs the program between two halts.

    An interrupt's eventfd is watched level-triggered and drained only behind the gate. So one that
    arrives while the machine is paused stays in its eventfd, and is found again after the resume.

    Args:
        index: the vCPU's number.
        gate: the machine's.
        cpu: runs the guest code of all vCPUs in turn.
        epoll: its own epoll set.
        wake_fd: an eventfd of its own (non-blocking); closed with the vCPU, as is the set.
    """

    __slots__ = (
        "_cpu", "_due", "_epoll", "_gate", "_irq_lock", "_irqs", "_pending", "_rerun", "_stale",
        "_wake_poll", "index", "slices", "wake_fd",
    )  # fmt: skip

    def __init__(
        self, index: int, gate: Gate, cpu: HostCpu, epoll: select.epoll, wake_fd: int
    ) -> None:
        self.index = index
        self.wake_fd = wake_fd
        self.slices = 0
        self._gate = gate
        self._cpu = cpu
        self._epoll = epoll
        self._irqs = {wake_fd: _WAKE}
        # Taken around looking a descriptor up and draining it, and around taking it away: once
        # `detach` has returned, the descriptor may be closed and its number used for anything.
        self._irq_lock = threading.Lock()
        self._pending: list[int] = []
        self._due: int | None = None
        # It left guest code early, or was loaded so: it is not halted.
        self._rerun = False
        # Its timer was set from outside while it was halted: the halt must be entered anew.
        self._stale = False
        self._wake_poll = select.poll()
        self._wake_poll.register(wake_fd, select.POLLIN)
        epoll.register(wake_fd, select.EPOLLIN)

    def run(self, program: GuestProgram | None) -> None:
        """See `Vcpu.run`."""
        if program is None:
            raise EmuError("an emulated vCPU needs a program")
        gate, cpu, poll = self._gate, self._cpu, self._epoll.poll
        while not gate.stopping:
            events = poll(self._halt_timeout())
            if not cpu.enter(self.index):
                self._wait_for_gate()
                continue
            try:
                self._turn(program, events)
            finally:
                cpu.leave(self.index)

    def _turn(self, program: GuestProgram, events: list[tuple[int, int]]) -> None:
        """What happens behind the gate."""
        beat = program.beat
        beat(monotonic_ns())
        if self._gate.owed:
            self._gate.ran(self.index)
        self._rerun = self._stale = False
        self._slice(program, events)
        self.slices += 1
        beat(monotonic_ns())

    def _halt_timeout(self) -> float:
        """Seconds until the timer. epoll_wait rounds up to a millisecond, and so never spins."""
        if self._rerun or self._stale:
            return 0
        due = self._due
        if due is None:
            return -1
        return max(0, due - monotonic_ns()) * _SECONDS_PER_NS

    def _slice(self, program: GuestProgram, events: list[tuple[int, int]]) -> None:
        """Guest code between two halts."""
        index, gate, pending = self.index, self._gate, self._pending
        if events:
            self._acknowledge(events)
        while pending:
            program.interrupt(index, pending[0])
            if gate.paused:  # it may have returned early: it has the vector once more, first thing
                self._rerun = True
                return
            del pending[0]
        due = self._due
        if due is not None and (now := monotonic_ns()) >= due:
            self._tick(program, now)

    def _tick(self, program: GuestProgram, now: int) -> None:
        self._due = None  # so that an `arm` that comes meanwhile is not overwritten
        due = program.tick(self.index, now)
        if self._gate.paused:
            self._rerun = True
            due = now
        if due is not None:
            self.arm(due)

    def _acknowledge(self, events: list[tuple[int, int]]) -> None:
        """Drain what is signalled, and make interrupts of it."""
        irqs, pending = self._irqs, self._pending
        with self._irq_lock:
            for fd, _ in events:
                vector = irqs.get(fd)
                if vector is None:  # taken away between the wake-up and here
                    continue
                try:
                    os.eventfd_read(fd)
                except BlockingIOError:
                    continue
                if vector != _WAKE and vector not in pending:
                    pending.append(vector)

    def _wait_for_gate(self) -> None:
        gate = self._gate
        if not gate.park(self.index):
            return
        while gate.paused and not gate.stopping:
            self._wake_poll.poll()
            try:
                os.eventfd_read(self.wake_fd)
            except BlockingIOError:
                continue
        gate.unpark(self.index)

    # -- from other threads

    def attach(self, vector: int, fd: int) -> None:
        """Take signals on `fd` as the interrupt `vector` from now on, those pending included.

        Raises:
            OSError: `fd` is no open eventfd.
        """
        with self._irq_lock:
            self._epoll.register(fd, select.EPOLLIN)
            self._irqs[fd] = vector

    def detach(self, fd: int) -> None:
        """Take no signals from it any more; on return nothing reads it."""
        with self._irq_lock:
            del self._irqs[fd]
            with suppress(OSError):  # its owner closed it first, which took it out of the set
                self._epoll.unregister(fd)

    @property
    def runnable(self) -> bool:
        """See `Vcpu.runnable`."""
        return self._rerun or self._stale

    def save(self) -> VcpuState:
        """See `Vcpu.save`."""
        due = self._due
        if due is None and not self._rerun:
            return IDLE
        timer = None if due is None else max(0, due - monotonic_ns())
        return VcpuState(not self._rerun, tuple(self._pending), timer)

    def load(self, state: VcpuState) -> None:
        """See `Vcpu.load`."""
        self._pending[:] = state.pending
        self._due = None if state.timer_ns is None else monotonic_ns() + state.timer_ns
        self._rerun = not state.halted or bool(state.pending)
        self._stale = state.timer_ns is not None

    def arm(self, due_ns: int) -> None:
        """See `Vcpu.arm`. From the vCPU's own program it costs no wake-up."""
        with self._irq_lock:
            due = self._due
            if due is not None and due <= due_ns:
                return
            self._due = due_ns
        if self.index not in self._gate.inside:
            self._stale = True
            os.eventfd_write(self.wake_fd, 1)

    def close(self) -> None:
        """See `Vcpu.close`."""
        if not self._epoll.closed:
            self._epoll.close()
            os.close(self.wake_fd)
