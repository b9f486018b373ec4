"""The guest's drivers in a KVM machine: one thread that handles the interrupts of all vCPUs.

The vCPUs' code (``native/guest.c``) receives the interrupts and makes the drivers' writes to notify
addresses. Mailboxes in guest memory carry both; each vCPU signals an eventfd when it has received
an interrupt. The thread runs drivers for one vCPU at a time, inside of the gate.
"""

from __future__ import annotations

import os
import select
import threading
import time
from time import monotonic_ns
from typing import TYPE_CHECKING

from emu.machine.accel import kvm_guest_image as image
from emu.machine.accel.kvm_mailbox import Mailbox
from emu.machine.accel.poke import Poke
from vhost_user import eventfd
from vhost_user.errors import DeadlineError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from emu.machine.accel.base import GuestProgram
    from emu.machine.accel.kvm_vm import KernelMachine
    from emu.machine.ram import GuestRam
    from emu.machine.run_gate import RunGate

#: Seconds for a vCPU to make queued writes, and to reach its first halt.
TIMEOUT = 5.0


class DriverThread:
    """Runs a `GuestProgram` for KVM's vCPUs.

    Args:
        machine: the kernel's VM with the vCPUs.
        gate: the machine's gate.
        ram: guest memory, with the image in it.
        layout: addresses of the image, and so of the mailboxes.
        vcpus: number of vCPUs.
        vectors_of: returns the machine's vectors for (vCPU, vector of its local APIC).

    Attributes:
        interrupt_fds: an eventfd for each vCPU, signalled when it has received interrupts. They
            are polled edge-triggered and not read.
        loaded: vCPUs have loaded the state of another process: the thread has to `_catch_up`.
        errors: the exception of a vCPU's drivers, which ended the vCPU, by its index.

    Raises:
        OSError: out of descriptors; all are closed.
    """

    def __init__(
        self,
        machine: KernelMachine,
        gate: RunGate,
        ram: GuestRam,
        layout: image.ImageLayout,
        vcpus: int,
        vectors_of: Callable[[int, int], Sequence[int]],
    ) -> None:
        self._machine = machine
        self._gate = gate
        self._vectors_of = vectors_of
        self.errors: dict[int, Exception] = {}
        self.loaded = False
        self.interrupt_fds: list[int] = []
        self.mailboxes: list[Mailbox] = []
        self._poke = Poke()
        try:
            self._epoll = select.epoll()
        except OSError:
            self._poke.close()
            raise
        try:
            self._epoll.register(self._poke.fd, select.EPOLLIN)
            for _ in range(vcpus):
                self.interrupt_fds.append(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC))
                self._epoll.register(self.interrupt_fds[-1], select.EPOLLIN | select.EPOLLET)
        except OSError:
            self.close()
            raise
        self._vcpu_of = {fd: vcpu for vcpu, fd in enumerate(self.interrupt_fds)}
        self.mailboxes = [Mailbox(machine, ram, layout.mailbox(vcpu)) for vcpu in range(vcpus)]
        self._vcpu = 0
        self._again: set[int] = set()
        self._queueing = threading.Lock()
        self._thread: threading.Thread | None = None

    # -- the drivers' thread

    def start(self, program: GuestProgram) -> None:
        """Start the thread."""
        self._thread = threading.Thread(
            target=self._run, args=(program,), name="guest-drivers", daemon=True
        )
        self._thread.start()

    def _run(self, program: GuestProgram) -> None:
        gate = self._gate
        throttle = gate.throttle
        while not gate.stopping:
            if gate.paused:
                self._poke.wait_for_gate(gate, 0)
                continue
            if self.loaded:
                self._catch_up()
            if throttle.percent and self._poke.wait(throttle.stay_out_ns(monotonic_ns())):
                continue
            for vcpu in self._ready():
                if gate.enter(vcpu):
                    try:
                        self._slice(vcpu, program)
                    except Exception as error:  # noqa: BLE001  the vCPU raises it
                        self._end_vcpu(vcpu, error)
                    gate.leave(vcpu)
                else:
                    self._again.add(vcpu)

    def _ready(self) -> Iterable[int]:
        """The vCPUs whose drivers have work; waits until there is one."""
        ready, self._again = self._again, set()
        for fd, _ in self._epoll.poll(0 if ready else -1):
            if fd == self._poke.fd:
                self._poke.drain()
            else:
                ready.add(self._vcpu_of[fd])
        return ready - self.errors.keys()

    def _catch_up(self) -> None:
        """Handle the interrupts and writes that the vCPUs of another process left in mailboxes."""
        self.loaded = False
        for vcpu, mailbox in enumerate(self.mailboxes):
            if mailbox.waiting:
                self._again.add(vcpu)
            self._send(vcpu)

    def _slice(self, vcpu: int, program: GuestProgram) -> None:
        """Run the drivers for the interrupts that a vCPU has received."""
        mailbox, gate = self.mailboxes[vcpu], self._gate
        self._vcpu = vcpu
        program.beat(monotonic_ns())
        vectors = mailbox.take()
        for index, vector in enumerate(vectors):
            self._interrupt(vcpu, vector, program)
            if gate.paused:
                # The driver may have returned early: it runs again, first, after the resume.
                mailbox.put_back(vectors[index:])
                self._again.add(vcpu)
                break
        program.beat(monotonic_ns())
        self._send(vcpu)

    def _interrupt(self, vcpu: int, vector: int, program: GuestProgram) -> None:
        if vector == image.TIMER_VECTOR:
            program.tick(vcpu, monotonic_ns())
            return
        for ring in self._vectors_of(vcpu, vector):
            program.interrupt(vcpu, ring)

    def _end_vcpu(self, vcpu: int, error: Exception) -> None:
        """End a vCPU whose drivers have failed; the others continue."""
        self.errors[vcpu] = error
        self._machine.end(vcpu)

    # -- writes to notify addresses

    def queue_write(self, address: int, value: int) -> bool:
        """Queue a driver's write to a notify address to the vCPU that the driver runs for.

        Returns:
            False: the mailbox is full, and the machine pauses.

        Raises:
            DeadlineError: the vCPU does not make the writes that are queued.
        """
        with self._queueing:
            vcpu = self._vcpu
            mailbox = self.mailboxes[vcpu]
            if mailbox.full and not self._make_room(vcpu, mailbox):
                return False
            mailbox.queue_write(address, value)
        if threading.current_thread() is not self._thread or not self._gate.inside:
            self._send(vcpu)
        return True

    def _make_room(self, vcpu: int, mailbox: Mailbox) -> bool:
        """Wait until a vCPU has made some of its writes; False: the machine pauses."""
        self._send(vcpu)
        deadline = time.monotonic() + TIMEOUT
        while mailbox.full:
            if self._gate.paused:
                return False
            if time.monotonic() > deadline:
                raise DeadlineError(f"vcpu{vcpu} to write to its notify addresses", TIMEOUT)
            os.sched_yield()  # the vCPU makes them as soon as it has a CPU
        return True

    def _send(self, vcpu: int) -> None:
        if self.mailboxes[vcpu].queued_writes:
            self._machine.interrupt(vcpu, image.WRITES_VECTOR)

    # -- from other threads

    def poke(self) -> None:
        """Make the thread read the gate."""
        self._poke.signal()

    def await_ready(self, timeout: float) -> bool:
        """Whether every vCPU was ready for interrupts within ``timeout`` seconds."""
        poll = select.poll()
        for fd in self.interrupt_fds:
            poll.register(fd, select.POLLIN)
        left = len(self.interrupt_fds)
        deadline = time.monotonic() + timeout
        while left and (wait := deadline - time.monotonic()) > 0:
            for fd, _ in poll.poll(wait * 1000):
                poll.unregister(fd)
                eventfd.take(fd)  # not for the drivers
                left -= 1
        return not left

    def join(self, timeout: float) -> None:
        """Wait for the thread's end; `RunGate.stopping` is set.

        Raises:
            DeadlineError: the thread does not end.
        """
        thread = self._thread
        if thread is None:
            return
        self.poke()
        thread.join(timeout)
        if thread.is_alive():
            raise DeadlineError("the guest's drivers to return", timeout)

    def close(self) -> None:
        """Close the descriptors and release guest memory; the thread has ended."""
        for mailbox in self.mailboxes:
            mailbox.release()
        self._epoll.close()
        self._poke.close()
        for fd in self.interrupt_fds:
            os.close(fd)
