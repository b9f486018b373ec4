"""The drivers of a KVM machine's guest: one thread that the vCPUs' interrupts reach.

The guest's own code (``emu/native/guest.c``) takes the interrupts and rings the doorbells. Which
they are is said in the vCPUs' mailboxes; that something was taken, by an eventfd for each vCPU.
Whatever this thread does, it does on behalf of a vCPU, behind the gate.
"""

from __future__ import annotations

import os
import select
import struct
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from emu.accel import kvm_image as image
from vhost_user.errors import DeadlineError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from emu.accel import GuestProgram
    from emu.gate import Gate
    from emu.ram import GuestRam

ORDERS_VECTOR = 0x20
TIMER_VECTOR = 0x21
#: Vectors that devices share: the rest of a local APIC's.
FIRST_VECTOR, LAST_VECTOR = 0x22, 0xFE
#: Seconds for a vCPU to ring what was ordered.
PATIENCE = 5.0
_PENDING = struct.Struct("<4Q")
_U32 = struct.Struct("<I")
_ORDER = struct.Struct("<II")


class Mailbox:
    """A vCPU's page, as the host sees it."""

    def __init__(self, page: memoryview) -> None:
        self._page = page
        self._pending = page[image.PENDING : image.PENDING + _PENDING.size].cast("Q")
        self._orders = page[image.ORDERED : image.ORDERED + 8].cast("I")

    def take(self, exchange: Callable[[memoryview], Sequence[int]]) -> list[int]:
        """The vectors that were taken since the last time; they are forgotten here."""
        words = exchange(self._pending)
        return [
            64 * place + bit
            for place, word in enumerate(words)
            if word
            for bit in range(64)
            if word >> bit & 1
        ]

    @property
    def waiting(self) -> bool:
        """Vectors were taken that nobody has seen."""
        return any(self._pending)

    @property
    def unrung(self) -> int:
        """Doorbells that were ordered and have not been rung."""
        return (self._orders[0] - self._orders[1]) & 0xFFFF_FFFF

    def order(self, address: int, value: int) -> None:
        """Have a doorbell rung; there must be room."""
        ordered = self._orders[0]
        at = image.ORDERS + 8 * (ordered % image.ORDER_SLOTS)
        _ORDER.pack_into(self._page, at, address, value & 0xFFFF_FFFF)
        self._orders[0] = (ordered + 1) & 0xFFFF_FFFF

    def release(self) -> None:
        """Let go of guest memory."""
        self._pending.release()
        self._orders.release()
        self._page.release()


class DriverHost:
    """Runs a `GuestProgram` for real vCPUs.

    Args:
        gate: the machine's.
        ram: the guest's memory.
        where: of the mailboxes.
        vcpus: how many there are.
        exchange: reads words of memory and clears them, as one step each.
        rings_of: the machine's vectors behind a local APIC's vector of a vCPU.

    Attributes:
        told: eventfds, one for each vCPU: it has taken interrupts.
        orders: eventfds, one for each vCPU: it is to ring doorbells.
        timer: eventfd: vCPU 0 is to tick now.
    """

    def __init__(
        self,
        gate: Gate,
        ram: GuestRam,
        where: image.Places,
        vcpus: int,
        exchange: Callable[[memoryview], Sequence[int]],
        rings_of: Callable[[int, int], Sequence[int]],
    ) -> None:
        self._gate = gate
        self._exchange = exchange
        self._rings_of = rings_of
        self.mailboxes = [
            Mailbox(ram.view(where.mailbox(vcpu), 4096)) for vcpu in range(vcpus)
        ]
        flags = os.EFD_NONBLOCK | os.EFD_CLOEXEC
        self._fds: list[int] = []
        self._epoll = select.epoll()
        try:
            for _ in range(2 * vcpus + 2):
                self._fds.append(os.eventfd(0, flags))
        except OSError:
            self.close()
            raise
        self.told = self._fds[:vcpus]
        self.orders = self._fds[vcpus : 2 * vcpus]
        self.timer, self._poke_fd = self._fds[2 * vcpus :]
        self._by_fd = {fd: vcpu for vcpu, fd in enumerate(self.told)}
        for fd in (*self.told, self._poke_fd):
            self._epoll.register(fd, select.EPOLLIN)
        self._vcpu = 0
        self._again: set[int] = set()
        self._lock = threading.Lock()
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
        while not gate.stopping:
            if gate.paused:
                self._wait_for_gate()
                continue
            for vcpu in self._ready():
                if not gate.enter(vcpu):
                    self._again.add(vcpu)
                    continue
                self._slice(vcpu, program)
                gate.leave(vcpu)

    def _ready(self) -> list[int]:
        """The vCPUs that have something for their drivers; waits until there is one."""
        again, self._again = self._again, set()
        for fd, _ in self._epoll.poll(0 if again else -1):
            with suppress(BlockingIOError):
                os.eventfd_read(fd)
            vcpu = self._by_fd.get(fd)
            if vcpu is not None:
                again.add(vcpu)
        return sorted(again)

    def _wait_for_gate(self) -> None:
        gate = self._gate
        if not gate.park(0):
            return
        poll = select.poll()
        poll.register(self._poke_fd, select.POLLIN)
        while gate.paused and not gate.stopping:
            poll.poll()
            with suppress(BlockingIOError):
                os.eventfd_read(self._poke_fd)
        gate.unpark(0)

    def _slice(self, vcpu: int, program: GuestProgram) -> None:
        """What the drivers do after one vCPU's interrupts."""
        self._vcpu = vcpu
        program.beat(time.monotonic_ns())
        taken = self.mailboxes[vcpu].take(self._exchange)
        for vector in taken:
            if vector == TIMER_VECTOR:
                program.tick(vcpu, time.monotonic_ns())
                continue
            for ring in self._rings_of(vcpu, vector):
                program.interrupt(vcpu, ring)
        if self._gate.paused and taken:
            # It may have returned early: once more, first thing after the resume.
            self._unfinished(vcpu, taken)
        program.beat(time.monotonic_ns())
        self._send(vcpu)

    def _unfinished(self, vcpu: int, taken: Sequence[int]) -> None:
        pending = self.mailboxes[vcpu]
        pending.put_back(taken)

    def ring(self, address: int, value: int) -> None:
        """A driver writes to a doorbell: the vCPU that it runs on is to do it."""
        with self._lock:
            mailbox = self.mailboxes[self._vcpu]
            if mailbox.unrung >= image.ORDER_SLOTS:
                self._make_room(self._vcpu)
            mailbox.order(address, value)
        if threading.current_thread() is not self._thread:
            self._send(self._vcpu)

    def _make_room(self, vcpu: int) -> None:
        self._send(vcpu)
        end = time.monotonic() + PATIENCE
        while self.mailboxes[vcpu].unrung >= image.ORDER_SLOTS:
            if time.monotonic() > end:
                raise DeadlineError(f"vcpu{vcpu} to ring its doorbells", PATIENCE)
            time.sleep(0)  # the vCPU is at it: it needs the processor, and tells nobody

    def _send(self, vcpu: int) -> None:
        if self.mailboxes[vcpu].unrung:
            os.eventfd_write(self.orders[vcpu], 1)

    # -- from other threads

    def poke(self) -> None:
        """Look at the gate, and at all mailboxes."""
        os.eventfd_write(self._poke_fd, 1)

    def look_everywhere(self) -> None:
        """After a load: what stands in the mailboxes has been taken by the vCPUs of another host."""
        for vcpu, mailbox in enumerate(self.mailboxes):
            if mailbox.waiting:
                os.eventfd_write(self.told[vcpu], 1)
            self._send(vcpu)

    def join(self, deadline: float) -> bool:
        """Wait for the thread's end, after the gate has said stop."""
        self.poke()
        if self._thread is None:
            return True
        self._thread.join(deadline)
        return not self._thread.is_alive()

    def close(self) -> None:
        """Give everything back; the thread has ended. Again is harmless."""
        for mailbox in self.mailboxes:
            mailbox.release()
        self.mailboxes = []
        if not self._epoll.closed:
            self._epoll.close()
        for fd in self._fds:
            os.close(fd)
        self._fds = []
