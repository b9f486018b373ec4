"""The interface between the machine and an accelerator, which runs guest code.

An accelerator implements *notifiers*: an ioeventfd turns a guest's write into a signal on an
eventfd, an irqfd turns a signal on an eventfd into an interrupt vector, and a route maps the vector
to a vCPU. It also creates the *vCPUs*; the machine runs each on its own thread.

Notifiers are assigned and deassigned in batches: a batch is one call into compiled code, whatever
its size.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from emu.errors import EmuError

if TYPE_CHECKING:
    from devices.notifiers import Ioeventfd, Irqfd
    from emu.machine.ram import GuestRam
    from emu.machine.run_gate import RunGate
    from emu.machine.vcpu_state import VcpuState


class NotifierError(EmuError):
    """A notifier was assigned twice, deassigned twice, or could not be assigned.

    Attributes:
        owner: the ring that it is for, such as ``blk3 ring 2``.
    """

    def __init__(self, text: str, *, owner: str = "") -> None:
        super().__init__(f"{owner}: {text}" if owner else text)
        self.owner = owner


class Limits(NamedTuple):
    """The limits of one machine.

    Attributes:
        max_vcpus: vCPUs.
        max_routes: vectors that can be routed at one time, from 0.
        max_ioeventfds: ioeventfds that can be assigned at one time.
    """

    max_vcpus: int
    max_routes: int
    max_ioeventfds: int


#: An accelerator calls this for a write that no ioeventfd takes: (address, value).
ExitHandler = Callable[[int, int], None]


class GuestProgram(Protocol):
    """The guest code that emulated vCPUs run.

    Each method runs on the thread of the given vCPU. It returns early once the gate is closed;
    after the resume it is then called again first, with the same arguments.
    """

    def interrupt(self, vcpu: int, vector: int) -> None:
        """Handle an interrupt of the vCPU, which may be spurious: the driver polls its ring."""

    def tick(self, vcpu: int, now_ns: int) -> int | None:
        """Handle the vCPU's timer, or the vCPU's start.

        Returns:
            When the timer is due next (CLOCK_MONOTONIC, ns), or None for no timer.
        """

    def beat(self, now_ns: int) -> None:
        """Record that guest code is entered or left at this time."""


class Vcpu(abc.ABC):
    """One vCPU. Its own thread calls `run`, other threads all other methods."""

    __slots__ = ()
    index: int

    @abc.abstractmethod
    def run(self, program: GuestProgram | None) -> None:
        """Run guest code, and halt between interrupts, until `RunGate.stopping`."""

    @abc.abstractmethod
    def save(self) -> VcpuState:
        """Its state. The machine is paused."""

    @abc.abstractmethod
    def load(self, state: VcpuState) -> None:
        """Set its state. The machine is paused; the vCPU is woken at resume if it has to run."""

    @abc.abstractmethod
    def arm(self, due_ns: int) -> None:
        """Set its timer to `due_ns` (CLOCK_MONOTONIC) if it is not due earlier already."""

    @property
    @abc.abstractmethod
    def runnable(self) -> bool:
        """Whether it must run at the next resume. The machine is paused."""

    @abc.abstractmethod
    def close(self) -> None:
        """Close its descriptors. Its thread has ended."""


class Accelerator(abc.ABC):
    """Implements notifiers and creates vCPUs. Notifiers change only under the big lock.

    A change is all or nothing: when it raises, the state is as before.

    Args:
        on_exit: called with the address and the value of a write that no ioeventfd takes, on the
            thread of the vCPU that wrote.

    Raises:
        EmuError: the accelerator does not work on this host.
    """

    name: str

    @abc.abstractmethod
    def __init__(self, on_exit: ExitHandler) -> None: ...

    @classmethod
    @abc.abstractmethod
    def find_limits(cls, vcpus: int) -> Limits:
        """The limits of a machine with ``vcpus`` vCPUs on this host.

        Raises:
            EmuError: the accelerator does not work on this host; the text has the reason and,
                if there is one, the remedy.
        """

    @abc.abstractmethod
    def change_ioeventfds(self, remove: Sequence[Ioeventfd], add: Sequence[Ioeventfd]) -> None:
        """Deassign some, then assign others.

        Raises:
            NotifierError: one is not assigned, or is assigned already.
        """

    @abc.abstractmethod
    def change_irqfds(self, remove: Sequence[Irqfd], add: Sequence[Irqfd]) -> None:
        """Deassign some, then assign others. After the return no deassigned eventfd is read.

        A signal that is pending on an eventfd when it is assigned raises its interrupt.

        Raises:
            NotifierError: one is not assigned, or its eventfd or vector is assigned already.
        """

    @abc.abstractmethod
    def set_routes(self, routes: Mapping[int, int]) -> None:
        """Set the whole routing table, vector to vCPU, in one commit.

        Signals on an irqfd without a route stay pending.

        Raises:
            NotifierError: a route's vCPU does not exist, or there are too many routes.
        """

    @abc.abstractmethod
    def mmio_write(self, address: int, value: int) -> None:
        """Make a write of guest code to a notify address: it signals its ioeventfd, or exits."""

    @abc.abstractmethod
    def set_memory(self, ram: GuestRam) -> None:
        """Set guest memory, before `create_vcpus`, for vCPUs that access it themselves."""

    @abc.abstractmethod
    def create_vcpus(self, count: int, gate: RunGate) -> Sequence[Vcpu]:
        """Create the machine's vCPUs; once.

        Raises:
            EmuError: more than the accelerator supports.
            OSError: out of descriptors; no vCPU was created.
        """

    @abc.abstractmethod
    def kick(self, vcpus: Sequence[int]) -> None:
        """Make these vCPUs leave guest code. The gate is closed, and `Vcpu.run` reads it."""

    @abc.abstractmethod
    def wake(self, vcpus: Sequence[int]) -> None:
        """Make these vCPUs read the gate again; a halted one leaves its halt."""

    def pause(self, timeout: float) -> None:  # noqa: B027  emulated vCPUs are behind the gate
        """Wait until vCPUs that run machine code have left it. The gate is closed and empty.

        Idempotent.

        Args:
            timeout: seconds.

        Raises:
            DeadlineError: a vCPU does not leave.
        """

    def resume(self, timeout: float) -> None:  # noqa: B027
        """Resume the vCPUs, and wait until each has run. The gate is opened afterwards.

        Args:
            timeout: seconds.

        Raises:
            DeadlineError: a vCPU has not run; all may run from now on nevertheless.
        """

    def mask_interrupts(self) -> None:  # noqa: B027
        """Leave signals pending in the irqfds' eventfds while the machine is paused.

        So two machines, of which at most one runs, may have irqfds on the same eventfds. Interrupts
        take longer. The vCPUs may run. Idempotent.
        """

    def unmask_interrupts(self) -> None:  # noqa: B027
        """Undo `mask_interrupts`; no effect while another machine has one of the irqfds."""

    def warm_up(self, timeout: float) -> None:  # noqa: B027
        """Set the parts of the vCPUs' state that a destination knows before the blackout.

        The vCPUs' threads have been started, and the machine is paused, before and after. Guest
        memory is overwritten, unless it was inherited.

        Args:
            timeout: seconds.

        Raises:
            DeadlineError: a vCPU does not reach its halt.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Release all resources. The vCPUs' threads have ended. Idempotent."""
