"""What runs guest code: the seam between the machine and an accelerator.

An accelerator has two jobs. It carries *notifiers*: an ioeventfd turns a guest's write to a
doorbell into a signal on an eventfd, an irqfd turns a signal on an eventfd into an interrupt
vector, and a route says which vCPU takes that vector. And it makes *vCPUs*, which the machine runs
on threads of their own.

Notifiers come and go in batches, because that is how they are cheap: a batch is one call into the
kernel's side (or into compiled code) whatever its size.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from emu.errors import EmuError

if TYPE_CHECKING:
    from emu.machine.ram import GuestRam
    from emu.machine.run_gate import Gate
    from emu.machine.vcpu_state import VcpuState


class NotifierError(EmuError):
    """A notifier was assigned twice, taken away twice, or could not be assigned at all.

    Attributes:
        owner: whose notifier it is, such as ``blk3 ring 2``.
    """

    def __init__(self, text: str, *, owner: str = "") -> None:
        super().__init__(f"{owner}: {text}" if owner else text)
        self.owner = owner


class Ioeventfd(NamedTuple):
    """A doorbell: a write to it becomes a signal.

    Attributes:
        address: guest-physical address.
        size: bytes of the write that matches: 1, 2, 4, 8, or 0 for any.
        datamatch: the only value that matches, or None for any.
        fd: the eventfd that is signalled.
        owner: who asked for it; for people.
    """

    address: int
    size: int
    datamatch: int | None
    fd: int
    owner: str = ""

    def __str__(self) -> str:
        match = "" if self.datamatch is None else f" = {self.datamatch}"
        return f"the ioeventfd at {self.address:#x}{match}"


class Irqfd(NamedTuple):
    """A signal on ``fd`` becomes the interrupt ``vector``."""

    vector: int
    fd: int


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
    paused; it is then called again, with the same arguments, first thing after the resume.
    """

    def interrupt(self, vcpu: int, vector: int) -> None:
        """The vCPU takes an interrupt. It may be spurious: the driver looks at its ring."""

    def tick(self, vcpu: int, now_ns: int) -> int | None:
        """The vCPU's timer is due, or the vCPU has just started.

        Returns:
            When it is due next (CLOCK_MONOTONIC, ns), or None: no timer.
        """

    def beat(self, now_ns: int) -> None:
        """Guest code is entered or left now."""


class Vcpu(abc.ABC):
    """One vCPU. `run` is its thread's; everything else is called from other threads."""

    __slots__ = ()
    index: int

    @abc.abstractmethod
    def run(self, program: GuestProgram | None) -> None:
        """Run guest code, and halt between interrupts, until the gate says stop."""

    @abc.abstractmethod
    def save(self) -> VcpuState:
        """Its state. The machine is paused."""

    @abc.abstractmethod
    def load(self, state: VcpuState) -> None:
        """Become that. The machine is paused; the vCPU is woken at resume if it has to run."""

    @abc.abstractmethod
    def arm(self, due_ns: int) -> None:
        """Set its timer to `due_ns` (CLOCK_MONOTONIC) if it is not due earlier already."""

    @property
    @abc.abstractmethod
    def runnable(self) -> bool:
        """Whether it must run at the next resume. The machine is paused."""

    @abc.abstractmethod
    def close(self) -> None:
        """Give back its descriptors. Its thread has ended."""


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
        """Take some away, then assign others.

        Raises:
            NotifierError: one is not there, or is there already.
        """

    @abc.abstractmethod
    def change_irqfds(self, remove: Sequence[Irqfd], add: Sequence[Irqfd]) -> None:
        """Take some away, then assign others. Those taken away are not read any more on return.

        A signal that is pending on an eventfd when it is assigned raises its interrupt.

        Raises:
            NotifierError: one is not there, or its eventfd or vector is assigned already.
        """

    @abc.abstractmethod
    def set_routes(self, routes: Mapping[int, int]) -> None:
        """The whole table, vector to vCPU, in one commit. An irqfd without a route waits.

        Raises:
            NotifierError: a route leads to a vCPU that does not exist, or there are too many.
        """

    @abc.abstractmethod
    def mmio_write(self, address: int, value: int) -> None:
        """A write of guest code to a doorbell: it signals the ioeventfd, or exits."""

    @abc.abstractmethod
    def set_memory(self, ram: GuestRam) -> None:
        """Guest memory, for vCPUs that address it by themselves. Before the vCPUs are made."""

    @abc.abstractmethod
    def create_vcpus(self, count: int, gate: Gate) -> Sequence[Vcpu]:
        """Make the machine's vCPUs; once.

        Raises:
            EmuError: more than this accelerator has.
            OSError: out of descriptors; nothing was made.
        """

    @abc.abstractmethod
    def kick(self, vcpus: Sequence[int]) -> None:
        """These leave guest code soon. The gate is closed already, and `Vcpu.run` looks at it."""

    @abc.abstractmethod
    def wake(self, vcpus: Sequence[int]) -> None:
        """These look at the gate again; a halted one comes out of its halt."""

    def pause(self, deadline: float) -> None:  # noqa: B027  emulated vCPUs are behind the gate
        """Wait until vCPUs that run code of their own have left it. The gate is closed and empty.

        Again is harmless.

        Args:
            deadline: seconds.

        Raises:
            DeadlineError: one does not leave.
        """

    def resume(self, deadline: float) -> None:  # noqa: B027
        """Let them run, and wait until each of them has. The gate is opened afterwards.

        Args:
            deadline: seconds.

        Raises:
            DeadlineError: one has not; they may run from now on all the same.
        """

    def hold_calls(self) -> None:  # noqa: B027
        """Have what is signalled on irqfds' eventfds wait whenever the vCPUs are paused.

        Two machines, of which one at most runs, may then have irqfds on the same eventfds. It may
        be at the price of slower interrupts. The vCPUs may run. Again is harmless.
        """

    def release_calls(self) -> None:  # noqa: B027
        """The reverse of `hold_calls`, for irqfds that no other machine has any more.

        Where it cannot be, as another one has them still, calls stay held.
        """

    def warm_up(self, deadline: float) -> None:  # noqa: B027
        """At the destination of a migration: get as near to the state to come as can be known.

        The vCPUs' threads have been started, and the machine is paused, before and after. What
        guest memory holds is overwritten, unless it was inherited: then it is left alone.

        Args:
            deadline: seconds.

        Raises:
            DeadlineError: a vCPU does not get there.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Give back what it holds. The vCPUs' threads have ended. May be called again."""
