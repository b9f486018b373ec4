"""All vCPUs of a machine: their threads, and pausing, saving and resuming them."""

from __future__ import annotations

import threading
import time
import traceback
from typing import TYPE_CHECKING, NamedTuple

from emu.errors import EmuError
from emu.machine.run_gate import RunGate
from emu.machine.throttle import MAX_PERCENT
from emu.machine.vcpu_state import VcpuState, VcpuStateError
from vhost_user.errors import DeadlineError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emu.machine.accel.base import Accelerator, GuestProgram

#: A vCPU's thread has a shallow call stack. With the default of 8 MiB a large VM would need a
#: gigabyte or more of address space.
STACK_BYTES = 256 << 10
TIMEOUT = 10.0

_POWER_ON = VcpuState(halted=False, timer_ns=0)
_stack_size_lock = threading.Lock()  # the stack size is a setting of the process


class Crash(NamedTuple):
    """A vCPU whose guest code, or accelerator, raised an exception. Its thread has ended.

    Attributes:
        vcpu: its index.
        error: the exception, with its traceback.
    """

    vcpu: int
    error: Exception

    def __str__(self) -> str:
        return f"vcpu{self.vcpu}: {type(self.error).__name__}: {self.error}"


def _forget_locals(error: BaseException) -> None:
    """Clear the local variables of an exception's frames.

    They refer to views of guest memory, which is only released with the last of them.
    """
    found: BaseException | None = error
    while found is not None:
        traceback.clear_frames(found.__traceback__)
        found = found.__cause__ or found.__context__


class VcpuSet:
    """The vCPUs of one machine. They are paused until `resume`.

    Args:
        count: number of vCPUs.
        accel: creates, kicks and wakes them.

    Attributes:
        gate: they enter it to run guest code.
        crashed: those whose thread ended with an error; the machine runs without them.
    """

    def __init__(self, count: int, accel: Accelerator) -> None:
        self.gate = RunGate()
        self.crashed: list[Crash] = []
        self._accel = accel
        self._vcpus = accel.create_vcpus(count, self.gate)
        self._threads: list[threading.Thread] = []
        self._powered_off = True

    def __len__(self) -> int:
        return len(self._vcpus)

    def start(self, program: GuestProgram | None) -> None:
        """Start the threads. No guest code runs before `resume`.

        The first `resume` powers the machine on if no state was loaded before it: each vCPU then
        runs its program's `tick` once.

        Args:
            program: the guest code that emulated vCPUs run.
        """
        if self._threads:
            raise EmuError("the vCPUs were started before")
        self._threads = [
            threading.Thread(
                target=self._run, args=(index, program), name=f"vcpu{index}", daemon=True
            )
            for index in range(len(self._vcpus))
        ]
        with _stack_size_lock:
            before = threading.stack_size(STACK_BYTES)
            try:
                for thread in self._threads:
                    thread.start()
            finally:
                threading.stack_size(before)

    def _run(self, index: int, program: GuestProgram | None) -> None:
        try:
            self._vcpus[index].run(program)
        except Exception as error:  # noqa: BLE001  `crashed` has it
            _forget_locals(error)
            self.crashed.append(Crash(index, error))
        finally:
            # Nothing may wait for this vCPU any more.
            self.gate.unpark(index)
            self.gate.leave(index)
            self.gate.ran(index)

    @property
    def thread_ids(self) -> list[int]:
        """The kernel's id of each vCPU's thread."""
        return [thread.native_id or 0 for thread in self._threads]

    @property
    def paused(self) -> bool:
        """Whether no vCPU may run guest code."""
        return self.gate.paused

    def pause(self, timeout: float = TIMEOUT) -> None:
        """Close the gate and wait until no vCPU is inside of guest code. Idempotent.

        Must not be called from a vCPU's thread, nor while holding a lock that guest code may wait
        for.

        Args:
            timeout: seconds.

        Raises:
            DeadlineError: a vCPU does not leave guest code; the gate stays closed.
        """
        inside = self.gate.close()
        if inside:
            self._accel.kick(inside)
            self.gate.wait_empty(timeout)
        self._accel.pause(timeout)

    def resume(self, timeout: float = TIMEOUT) -> None:
        """Open the gate, wake the vCPUs that are not halted, and wait until each of them has run.

        Raises:
            EmuError: the vCPUs' threads have not been started, or were stopped.
            DeadlineError: one of them has not run; the gate stays open.
        """
        if not self.gate.paused:
            return
        if not self._threads:
            raise EmuError("the vCPUs have not been started, or were stopped")
        if self._powered_off:
            self.load([_POWER_ON] * len(self._vcpus))
        crashed = {crash.vcpu for crash in self.crashed}
        runnable = [vcpu.index for vcpu in self._vcpus if vcpu.runnable]
        awaited = [index for index in runnable if index not in crashed]
        self._accel.resume(timeout)
        self._accel.wake(self.gate.open(awaited))
        self.gate.wait_ran(timeout)

    def save(self) -> list[VcpuState]:
        """The state of each vCPU.

        Raises:
            EmuError: the vCPUs are not paused.
        """
        self._require_paused("saved")
        return [vcpu.save() for vcpu in self._vcpus]

    def load(self, states: Sequence[VcpuState]) -> None:
        """Set the state of each vCPU; those that are not halted run at `resume`.

        Raises:
            EmuError: the vCPUs are not paused.
            VcpuStateError: there are more or fewer states than vCPUs.
        """
        self._require_paused("loaded")
        if len(states) != len(self._vcpus):
            raise VcpuStateError(f"{len(states)} states for {len(self._vcpus)} vCPUs")
        self._powered_off = False
        for vcpu, state in zip(self._vcpus, states, strict=True):
            vcpu.load(state)

    def _require_paused(self, action: str) -> None:
        if not self.gate.paused or self.gate.inside:
            raise EmuError(f"running vCPUs cannot be {action}: pause them first")

    def throttle(self, percent: int) -> None:
        """Keep all vCPUs out of guest code for that part of their time; 0 ends the throttling.

        Raises:
            EmuError: ``percent`` is not within 0 to 99.
        """
        if not 0 <= percent <= MAX_PERCENT:
            raise EmuError(f"a throttle of {percent}% is not within 0 to {MAX_PERCENT}")
        self.gate.throttle.percent = percent

    def arm(self, vcpu: int, due_ns: int) -> None:
        """Make the program's `tick` run on that vCPU at `due_ns` (CLOCK_MONOTONIC) or earlier."""
        self._vcpus[vcpu].arm(due_ns)

    def stop(self, timeout: float = TIMEOUT) -> None:
        """End the threads. Idempotent.

        Raises:
            DeadlineError: names the threads that do not end. The caller must then close no
                descriptor that they may use.
        """
        gate = self.gate
        gate.stopping = True
        self._accel.kick(gate.close())
        if not self._threads:
            return
        self._accel.wake(range(len(self._vcpus)))
        deadline = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        running = [thread.name for thread in self._threads if thread.is_alive()]
        if running:
            raise DeadlineError(f"the thread of {', '.join(running[:4])} to end", timeout)
        self._threads.clear()
