"""What runs guest code: the interface between the machine and an accelerator.

An accelerator does two things. It carries *notifiers*: an ioeventfd turns a guest's write into a
signal on an eventfd, an irqfd turns a signal on an eventfd into an interrupt vector, and a route
gives the vCPU that takes that vector. And it makes *vCPUs*, which the machine runs on threads of
their own.

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
    """How large one machine may be.

    Attributes:
        max_vcpus: vCPUs.
        max_routes: vectors that can be routed at one time, from 0.
        max_ioeventfds: ioeventfds that can be assigned at one time.
    """

    max_vcpus: int
    max_routes: int
    max_ioeventfds: int


#: What an accelerator calls for a write that has no ioeventfd: (address, value).
ExitHandler = Callable[[int, int], None]


class GuestProgram(Protocol):
    """What emulated vCPUs run.

    Each method runs on the thread of the vCPU that it names. It returns early once the gate is
    paused; after the resume it is then called again first, with the same arguments.
    """

    def interrupt(self, vcpu: int, vector: int) -> None:
        """The vCPU takes an interrupt. It may be spurious: the driver polls its ring."""

    def tick(self, vcpu: int, now_ns: int) -> int | None:
        """The vCPU's timer is due, or the vCPU has just started.

        Returns:
            When it is due next (CLOCK_MONOTONIC, ns), or None: no timer.
        """

    def beat(self, now_ns: int) -> None:
        """Guest code is entered or left now."""


class Vcpu(abc.ABC):
    """One vCPU. Its own thread calls `run`, other threads everything else."""

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
        """Take that state. The machine is paused; the vCPU is woken at resume if it has to run."""

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
    """Carries notifiers and makes vCPUs. Notifiers change under the big lock only.

    A change is all or nothing: when it raises, the old state is in force.

    Args:
        on_exit: called with the address and the value of a write that has no ioeventfd, on the
            thread of the vCPU that wrote.

    Raises:
        EmuError: it does not work on this host.
    """

    name: str

    @abc.abstractmethod
    def __init__(self, on_exit: ExitHandler) -> None: ...

    @classmethod
    @abc.abstractmethod
    def find_limits(cls, vcpus: int) -> Limits:
        """What a machine with so many vCPUs may have on this host.

        Raises:
            EmuError: the accelerator does not work on this host; the text has the reason and,
                where there is one, the remedy.
        """

    @abc.abstractmethod
    def change_ioeventfds(self, remove: Sequence[Ioeventfd], add: Sequence[Ioeventfd]) -> None:
        """Deassign some, then assign others.

        Raises:
            NotifierError: one is not assigned, or is assigned already.
        """

    @abc.abstractmethod
    def change_irqfds(self, remove: Sequence[Irqfd], add: Sequence[Irqfd]) -> None:
        """Deassign some, then assign others. On return those deassigned are not read any more.

        A signal that is pending on an eventfd when it is assigned raises its interrupt.

        Raises:
            NotifierError: one is not assigned, or its eventfd or vector is assigned already.
        """

    @abc.abstractmethod
    def set_routes(self, routes: Mapping[int, int]) -> None:
        """Set the whole table, vector to vCPU, in one commit.

        Signals on an irqfd without a route stay pending.

        Raises:
            NotifierError: a route leads to a vCPU that does not exist, or there are too many.
        """

    @abc.abstractmethod
    def mmio_write(self, address: int, value: int) -> None:
        """A write of guest code to a notify address: it signals the ioeventfd, or exits."""

    @abc.abstractmethod
    def set_memory(self, ram: GuestRam) -> None:
        """Guest memory, for vCPUs that address it by themselves. Before the vCPUs are made."""

    @abc.abstractmethod
    def create_vcpus(self, count: int, gate: RunGate) -> Sequence[Vcpu]:
        """Make the machine's vCPUs; once.

        Raises:
            EmuError: more than this accelerator has.
            OSError: out of descriptors; nothing was made.
        """

    @abc.abstractmethod
    def kick(self, vcpus: Sequence[int]) -> None:
        """Have these leave guest code soon. The gate is closed already, and `Vcpu.run` reads it."""

    @abc.abstractmethod
    def wake(self, vcpus: Sequence[int]) -> None:
        """Have these read the gate again; a halted one comes out of its halt."""

    def pause(self, timeout: float) -> None:  # noqa: B027  emulated vCPUs are behind the gate
        """Wait until vCPUs that run code of their own have left it. The gate is closed and empty.

        Idempotent.

        Args:
            timeout: seconds.

        Raises:
            DeadlineError: one does not leave.
        """

    def resume(self, timeout: float) -> None:  # noqa: B027
        """Let them run, and wait until each of them has. The gate is opened afterwards.

        Args:
            timeout: seconds.

        Raises:
            DeadlineError: one has not; they may run from now on nevertheless.
        """

    def mask_interrupts(self) -> None:  # noqa: B027
        """From now on, signals on irqfds' eventfds stay pending there while the machine is paused.

        Then two machines, of which at most one runs, may have irqfds on the same eventfds.
        Interrupts may take longer. The vCPUs may run. Idempotent.
        """

    def unmask_interrupts(self) -> None:  # noqa: B027
        """The reverse of `mask_interrupts`, for irqfds that no other machine has any more.

        As long as another machine has one of them, they stay masked.
        """

    def warm_up(self, timeout: float) -> None:  # noqa: B027
        """At the destination of a migration: set as much of the state to come as can be known.

        The vCPUs' threads have been started, and the machine is paused, before and after. What
        guest memory holds is overwritten, unless it was inherited.

        Args:
            timeout: seconds.

        Raises:
            DeadlineError: a vCPU does not get there.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Release what it holds. The vCPUs' threads have ended. Idempotent."""
