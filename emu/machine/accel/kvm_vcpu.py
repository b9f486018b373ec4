"""A vCPU of KVM: a thread in KVM_RUN, and the state that migrates."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from emu.errors import EmuError
from emu.machine.accel import kvm_guest_image as image
from emu.machine.accel.base import ExitHandler, GuestProgram, Vcpu
from emu.machine.accel.kvm_driver_thread import TIMEOUT
from emu.machine.accel.kvm_vm import KvmError
from emu.machine.vcpu_state import VcpuState, VcpuStateError

if TYPE_CHECKING:
    from emu.machine.accel.kvm_driver_thread import DriverThread
    from emu.machine.accel.kvm_vm import KernelMachine
    from emu.machine.run_gate import RunGate


class KvmVcpu(Vcpu):
    """One vCPU of KVM.

    Args:
        index: its index in the machine.
        machine: the kernel's VM.
        drivers: the thread of the guest's drivers.
        gate: the machine's gate.
        on_exit: called with a write that no ioeventfd takes.
    """

    __slots__ = ("_drivers", "_gate", "_machine", "_on_exit", "index", "parts_set")

    def __init__(
        self,
        index: int,
        machine: KernelMachine,
        drivers: DriverThread,
        gate: RunGate,
        on_exit: ExitHandler,
    ) -> None:
        self.index = index
        #: Number of parts of its state that loads have set, as they differed from the kernel's.
        self.parts_set = 0
        self._machine = machine
        self._drivers = drivers
        self._gate = gate
        self._on_exit = on_exit

    def run(self, program: GuestProgram | None) -> None:
        """See `Vcpu.run`. vCPU 0's thread starts the drivers' thread, and the last one joins it."""
        if program is None:
            self._machine.thread_ends(self.index)
            raise EmuError("the drivers of a KVM machine need a program")
        if not self.index:
            self._drivers.start(program)
        try:
            while (out := self._machine.run(self.index)) is not None:
                self._on_exit(out.address, out.value)
        finally:
            self._machine.thread_ends(self.index)
            if self._gate.stopping:
                self._drivers.join(TIMEOUT)
        error = self._drivers.errors.get(self.index)
        if error is not None:
            raise error

    @property
    def runnable(self) -> bool:
        """See `Vcpu.runnable`. `KvmAccelerator.resume` resumes all vCPUs."""
        return False

    def save(self) -> VcpuState:
        """See `Vcpu.save`. Pending interrupts and the timer are in the local APIC's state."""
        return VcpuState(raw=self._machine.save(self.index))

    def load(self, state: VcpuState) -> None:
        """See `Vcpu.load`. The state for power-on is empty, and not loaded.

        Raises:
            VcpuStateError: KVM does not accept the state.
        """
        if not state.raw:
            if state.halted:
                raise VcpuStateError(f"the state of vcpu{self.index} is of another accelerator")
            return
        try:
            self.parts_set += self._machine.load(self.index, state.raw)
            self._drivers.loaded = True
        except KvmError as error:
            raise VcpuStateError(str(error)) from error

    def arm(self, due_ns: int) -> None:
        """See `Vcpu.arm`. Its timer is periodic; if it is due now, its interrupt is raised."""
        if due_ns <= time.monotonic_ns():
            self._machine.interrupt(self.index, image.TIMER_VECTOR)

    def close(self) -> None:
        """See `Vcpu.close`. `KernelMachine` closes the descriptors."""
