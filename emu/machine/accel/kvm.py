"""The KVM accelerator: vCPUs, ioeventfds, irqfds and routes of the kernel.

The vCPUs run machine code (``native/guest.c``) that takes interrupts and writes to notify
addresses. The guest's drivers are the same Python program as with emulated vCPUs, and run on a
thread of their own (`emu.machine.accel.kvm_driver_thread`).
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from emu.errors import EmuError
from emu.machine.accel import kvm_guest_image as image
from emu.machine.accel import kvm_limits
from emu.machine.accel.base import Accelerator, ExitHandler, Limits, Vcpu
from emu.machine.accel.kvm_driver_thread import DriverThread
from emu.machine.accel.kvm_interrupts import KvmInterrupts
from emu.machine.accel.kvm_ioeventfds import DRIVER_PORTS, KvmIoeventfds
from emu.machine.accel.kvm_vcpu import KvmVcpu
from emu.machine.accel.kvm_vm import KernelMachine, guest_code, halted
from emu.machine.ram import RamError
from vhost_user import eventfd
from vhost_user.errors import DeadlineError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from devices.notifiers import Ioeventfd, Irqfd
    from emu.machine.ram import GuestRam
    from emu.machine.run_gate import RunGate

#: Memory slots: the guest's memory below 4 GiB, and the reserved part of it, for the vCPUs' code.
_LOW, _RESERVED = range(2)


class KvmAccelerator(Accelerator):
    """vCPUs and notifiers of KVM.

    Args:
        on_exit: called on the vCPU's thread for a write that no ioeventfd takes.

    Attributes:
        kernel: the kernel's VM.
        drivers: the thread of the guest's drivers; None before `create_vcpus`.

    Raises:
        KvmError: KVM does not work, or a capability is missing.
    """

    name = "kvm"

    @classmethod
    def find_limits(cls, vcpus: int) -> Limits:
        """See `Accelerator.find_limits`."""
        return kvm_limits.limits(vcpus)

    def __init__(self, on_exit: ExitHandler) -> None:
        self._limits = kvm_limits.limits()
        self._on_exit = on_exit
        self.kernel = KernelMachine()
        self.drivers: DriverThread | None = None
        self._ioeventfds = KvmIoeventfds(self.kernel)
        self._interrupts = KvmInterrupts(self.kernel, self._limits.max_routes)
        self._vcpus: list[KvmVcpu] = []
        self._gate: RunGate | None = None
        self._ram: GuestRam | None = None
        #: Address and bytes of the reserved memory of the vCPUs' code.
        self._reserved = 0, memoryview(b"")
        self._closed = False
        self._lock = threading.Lock()

    # -- notifiers

    def change_ioeventfds(self, remove: Sequence[Ioeventfd], add: Sequence[Ioeventfd]) -> None:
        """See `Accelerator.change_ioeventfds`."""
        with self._lock:
            self._ioeventfds.change(remove, add)

    def mmio_write(self, address: int, value: int) -> None:
        """See `Accelerator.mmio_write`. It is queued to the vCPU that the driver runs for."""
        ioeventfd = self._ioeventfds.find(address, value)
        target = address if ioeventfd is None else ioeventfd.address
        if self._started_drivers.queue_write(target, value):
            return
        # The queue is full and the machine pauses: this thread makes the write, as KVM would.
        if ioeventfd is None:
            self._on_exit(address, value)
        else:
            eventfd.default().signal([ioeventfd.fd])

    def change_irqfds(self, remove: Sequence[Irqfd], add: Sequence[Irqfd]) -> None:
        """See `Accelerator.change_irqfds`."""
        with self._lock:
            self._interrupts.change(remove, add)

    def set_routes(self, routes: Mapping[int, int]) -> None:
        """See `Accelerator.set_routes`."""
        with self._lock:
            self._interrupts.set_routes(routes, len(self._vcpus))

    def mask_interrupts(self) -> None:
        """See `Accelerator.mask_interrupts`."""
        with self._lock:
            self._interrupts.mask(paused=self._gate is None or self._gate.paused)

    def unmask_interrupts(self) -> None:
        """See `Accelerator.unmask_interrupts`."""
        with self._lock:
            self._interrupts.unmask()

    # -- memory

    def set_memory(self, ram: GuestRam) -> None:
        """See `Accelerator.set_memory`."""
        self._ram = ram

    def _map(self, ram: GuestRam, reserved: int) -> None:
        """Map guest memory; the last ``reserved`` bytes of the low region are for vCPU code.

        Only the drivers use the memory above 4 GiB, so KVM does not map it: that would take 2.5 MiB
        of the kernel's memory for each GiB.
        """
        kernel = self.kernel
        low = ram.regions[0]
        free = low.size - reserved
        kernel.map(_LOW, low.gpa, ram.view(low.gpa, free))
        self._reserved = low.gpa + free, ram.view(low.gpa + free, reserved)
        kernel.map(_RESERVED, *self._reserved, log=True)
        first, pages = (low.gpa + free) >> 12, reserved >> 12
        ram.add_writer(lambda: [first + page for page in kernel.dirty_pages(_RESERVED, pages)])

    # -- vCPUs

    def create_vcpus(self, count: int, gate: RunGate) -> Sequence[Vcpu]:
        """See `Accelerator.create_vcpus`."""
        if self.drivers is not None:
            raise EmuError("the vCPUs of this machine were created before")
        most = self._limits.max_vcpus
        if not 1 <= count <= most:
            raise EmuError(f"{count} vCPUs: {self.name} supports 1 to {most} on this host")
        if self._ram is None:
            raise EmuError("KVM's vCPUs need guest memory: call set_memory first")
        kernel, layout = self.kernel, self._write_image(self._ram, count)
        kernel.create_vcpus(count)
        self._gate = gate
        self.drivers = drivers = DriverThread(
            kernel, gate, self._ram, layout, count, self._interrupts.vectors_of
        )
        self._ioeventfds.reserve_driver_ports(drivers.interrupt_fds)
        for vcpu in range(count):
            kernel.begin(vcpu, layout)
        self._vcpus = [KvmVcpu(vcpu, kernel, drivers, gate, self._on_exit) for vcpu in range(count)]
        return self._vcpus

    def _write_image(self, ram: GuestRam, vcpus: int) -> image.ImageLayout:
        """Map guest memory, and write the vCPUs' code to it."""
        reserved = image.reserved_bytes(vcpus)
        try:
            ram.reserve(reserved)
        except RamError:
            text = f"{ram.size} bytes of memory are too little for the code of {vcpus} vCPUs"
            raise EmuError(text) from None
        self._map(ram, reserved)
        layout = image.layout_of(ram, vcpus)
        if not ram.inherited:  # otherwise the memory has the code already, and it is in use
            image.write(ram, layout, guest_code(), DRIVER_PORTS, vcpus)
        return layout

    @property
    def _started_drivers(self) -> DriverThread:
        if self.drivers is None:
            raise EmuError("the machine has no vCPUs")
        return self.drivers

    def kick(self, vcpus: Sequence[int]) -> None:
        """See `Accelerator.kick`. The drivers read `RunGate.paused` themselves."""

    def wake(self, vcpus: Sequence[int]) -> None:
        """See `Accelerator.wake`."""
        drivers, gate = self.drivers, self._gate
        if drivers is None or gate is None:
            return
        if gate.stopping:
            self.kernel.stop()
        if vcpus:
            drivers.poke()

    def pause(self, timeout: float) -> None:
        """See `Accelerator.pause`: it signals all vCPUs before it waits for the first one."""
        self._interrupts.pause()
        if not self.kernel.pause(timeout):
            raise DeadlineError("the vCPUs to leave guest code", timeout)

    def resume(self, timeout: float) -> None:
        """See `Accelerator.resume`."""
        if not self.kernel.resume(timeout):
            raise DeadlineError("the vCPUs to run again", timeout)
        self._interrupts.resume()
        drivers = self._started_drivers
        if drivers.loaded:
            drivers.poke()

    def warm_up(self, timeout: float) -> None:
        """See `Accelerator.warm_up`: each vCPU runs from power-on to its first halt.

        Nearly all vCPUs of the source are halted at the same instruction when they are paused; a
        later load sets only the parts that differ. The source may be using inherited memory: then
        the vCPUs run in a copy of it.
        """
        if self._ram is None or not self._ram.inherited:
            self._begin_and_halt(timeout)
            return
        gpa, reserved = self._reserved
        copy = image.ReservedCopy(gpa, len(reserved))
        count = len(self._vcpus)
        image.write(copy, image.layout_of(self._ram, count), guest_code(), DRIVER_PORTS, count)
        self.kernel.replace(_RESERVED, gpa, copy.view)
        try:
            self._begin_and_halt(timeout)
        finally:
            self.kernel.replace(_RESERVED, gpa, reserved, log=True)

    def _begin_and_halt(self, timeout: float) -> None:
        drivers, kernel = self._started_drivers, self.kernel
        deadline = time.monotonic() + timeout
        if not kernel.resume(timeout):
            raise DeadlineError("the vCPUs to run", timeout)
        ready = drivers.await_ready(timeout)
        self.pause(timeout)
        if not ready:
            raise DeadlineError("the vCPUs to be ready for interrupts", timeout)
        # A load need not set the parts that equal the saved ones. A vCPU that is ready halts a few
        # instructions later: on a busy host it may not have come so far when it is paused.
        while not all(halted(kernel.save(vcpu)) for vcpu in range(len(self._vcpus))):
            if time.monotonic() > deadline:
                raise DeadlineError("the vCPUs to halt", timeout)
            if not kernel.resume(timeout):
                raise DeadlineError("the vCPUs to run", timeout)
            self.pause(timeout)

    def close(self) -> None:
        """See `Accelerator.close`."""
        if self._closed:
            return
        self._closed = True
        self._interrupts.close()
        self.kernel.close()
        if self.drivers is not None:
            self.drivers.close()
