"""The scheduler of emulated vCPUs, of which one runs at a time.

The interpreter runs one thread at a time. If each of 224 threads waited for its own interrupts,
they would compete for it: the thread that pauses, resumes or migrates the machine would queue with
all of them (measured: 10 ms for a pause, hundreds for a resume). So the right to run guest code,
the *processor*, is a token that one vCPU's thread holds and the others wait for. When its vCPU
halts, the thread collects events for all vCPUs, and passes the processor to the next vCPU that has
work. It sleeps in epoll_wait only if no vCPU has work, until an interrupt or a timer is due. So one
guest thread competes for the interpreter, however many vCPUs are busy, and none while the machine
is paused.
"""

from __future__ import annotations

import select
import threading
from collections import deque
from contextlib import suppress
from heapq import heappop, heappush
from time import monotonic_ns
from typing import TYPE_CHECKING

from emu.machine.accel.poke import Poke
from emu.machine.accel.soft_vcpu import SoftVcpu

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from emu.machine.run_gate import RunGate

_SECONDS_PER_NS = 1e-9
_EDGE = select.EPOLLIN | select.EPOLLET


class SoftScheduler:
    """Schedules the vCPUs of one machine.

    An interrupt's eventfd is polled edge-triggered; the vCPU reads it when it runs, inside of the
    gate. A signal that arrives while the machine is paused stays in its eventfd.

    Args:
        count: number of vCPUs.
        gate: the machine's gate.

    Raises:
        OSError: out of descriptors; all are closed.
    """

    def __init__(self, count: int, gate: RunGate) -> None:
        self.gate = gate
        self.vcpus: Sequence[SoftVcpu] = [SoftVcpu(index, self) for index in range(count)]
        self._poke = Poke()
        try:
            self._epoll = select.epoll()
        except OSError:
            self._poke.close()
            raise
        self._epoll.register(self._poke.fd, select.EPOLLIN)
        self._ready: deque[SoftVcpu] = deque()
        self._timers: list[tuple[int, int]] = []
        self._irqs: dict[int, tuple[int, SoftVcpu]] = {}
        # Held while an eventfd is looked up and read, and while it is deassigned: once `detach`
        # has returned, the descriptor may be closed and its number reused.
        self.irq_lock = threading.Lock()
        self.timer_lock = threading.Lock()
        self._processor = threading.Lock()

    # -- the processor; on the vCPUs' threads

    def await_first_turn(self, vcpu: SoftVcpu) -> bool:
        """See `Scheduler.await_first_turn`: the first thread gets the processor."""
        if self._processor.acquire(blocking=False):
            return self.await_next_turn(vcpu)
        return self._wait(vcpu)

    def await_next_turn(self, vcpu: SoftVcpu) -> bool:
        """See `Scheduler.await_next_turn`."""
        chosen = self._choose(vcpu)
        if chosen is vcpu:
            return True
        if chosen is None:
            return False
        self._pass_to(chosen)
        return self._wait(vcpu)

    def _wait(self, vcpu: SoftVcpu) -> bool:
        vcpu.turn.acquire()
        if self.gate.stopping:
            return False
        if vcpu.dispatches:
            vcpu.dispatches = False
            return self.await_next_turn(vcpu)
        return True

    def _pass_to(self, vcpu: SoftVcpu) -> None:
        with suppress(RuntimeError):  # `wake` has released it already, for the threads' end
            vcpu.turn.release()

    def release(self, vcpu: SoftVcpu) -> None:
        """See `Scheduler.release`: another vCPU's thread selects the next vCPU to run."""
        vcpu.crashed = True
        for other in self.vcpus:
            if not other.crashed:
                other.dispatches = True
                self._pass_to(other)
                return

    def _choose(self, vcpu: SoftVcpu) -> SoftVcpu | None:
        """The next vCPU to run; sleeps while none is ready. None if the threads have to end."""
        gate, ready, poll = self.gate, self._ready, self._epoll.poll
        throttle = gate.throttle
        while not gate.stopping:
            if gate.paused:
                self._poke.wait_for_gate(gate, vcpu.index)
                continue
            # A throttled guest stays out of guest code for that long. Then one vCPU runs in any
            # case, as the wait may have ended after its running time.
            if throttle.percent and self._poke.wait(throttle.stay_out_ns(monotonic_ns())):
                continue
            events = poll(0 if ready else self._halt_timeout())
            if events:
                self._collect(events)
            if self._timers:
                self._expire()
            while ready:
                chosen = ready.popleft()
                chosen.queued = False
                if not chosen.crashed:
                    return chosen
        return None

    def _collect(self, events: Iterable[tuple[int, int]]) -> None:
        """Queue interrupts to their vCPUs. The eventfds are not read yet."""
        for fd, _ in events:
            if fd == self._poke.fd:
                self._poke.drain()
                continue
            irq = self._irqs.get(fd)
            if irq is not None:  # otherwise it was deassigned meanwhile
                irq[1].signalled.append(fd)
                self._enqueue(irq[1])

    def _enqueue(self, vcpu: SoftVcpu) -> None:
        if not vcpu.queued:
            vcpu.queued = True
            self._ready.append(vcpu)

    def _halt_timeout(self) -> float:
        """Seconds until the next timer. epoll_wait rounds up to a millisecond: it never spins."""
        if not self._timers:
            return -1
        return max(0, self._timers[0][0] - monotonic_ns()) * _SECONDS_PER_NS

    def _expire(self) -> None:
        timers, now = self._timers, monotonic_ns()
        while timers and timers[0][0] <= now:
            due, index = heappop(timers)
            if self.vcpus[index].due == due:  # otherwise the timer was changed meanwhile
                self._enqueue(self.vcpus[index])

    # -- from any thread

    def run_next(self, vcpu: SoftVcpu) -> None:
        """See `Scheduler.run_next`."""
        vcpu.queued = True
        self._ready.appendleft(vcpu)

    def wake(self, vcpus: Iterable[int]) -> None:
        """Run these before all others, or end their threads if the gate is `stopping`."""
        for index in vcpus:
            if self.gate.stopping:
                self._pass_to(self.vcpus[index])
            else:
                self.run_next(self.vcpus[index])
        self.poke()

    def poke(self) -> None:
        """Wake the thread that has the processor, if it sleeps in epoll_wait."""
        self._poke.signal()

    def set_timer(self, due_ns: int, index: int) -> None:
        """Make a vCPU ready at `due_ns` (CLOCK_MONOTONIC), if its `due` is still that then."""
        heappush(self._timers, (due_ns, index))

    def vector_of(self, fd: int, vcpu: SoftVcpu) -> int | None:
        """The vector of an eventfd, if it is that vCPU's. The caller holds `irq_lock`."""
        irq = self._irqs.get(fd)
        return irq[0] if irq is not None and irq[1] is vcpu else None

    def attach(self, vector: int, fd: int, vcpu: int) -> None:
        """Turn signals on `fd` into an interrupt from now on, including a pending one.

        Raises:
            OSError: `fd` is not an open eventfd.
        """
        with self.irq_lock:
            self._irqs[fd] = (vector, self.vcpus[vcpu])
            try:
                self._epoll.register(fd, _EDGE)
            except OSError:
                del self._irqs[fd]
                raise

    def detach(self, fd: int) -> None:
        """Ignore signals on `fd` from now on; after the return no thread reads it."""
        with self.irq_lock:
            del self._irqs[fd]
            with suppress(OSError):  # its owner has closed it, which removes it from the epoll set
                self._epoll.unregister(fd)

    def close(self) -> None:
        """Close the descriptors. Idempotent."""
        if not self._epoll.closed:
            self._epoll.close()
            self._poke.close()
