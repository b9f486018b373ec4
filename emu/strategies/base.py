"""The base class of strategies, which schedule the steps of stopping and starting devices."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Self

from devices.procedure import AwaitSwitchover, Change, Step

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emu.strategies.task import Stage, Task

#: The type of the step at which a drive leaves its tasks, or None to drive them to their end.
Halt = type[Step] | None

#: While many messages are in flight, this many without a reply take as long as one with a reply.
POSTED = 4


#: Workers of a pool.
MAX_THREADS = 256
MAX_PROCESSES = 64


class StrategyOptions(NamedTuple):
    """Options that some strategies take.

    They come from a command line, from QMP, or from the source of a migration: `check` them.

    Attributes:
        threads: size of the pool of `threads`.
        processes: size of the pool of `processes`.
        unsafe: run `threads` as in the RFC's first attempt; one of `unsafe.MODES`, or empty.
    """

    threads: int = 8
    processes: int = 2
    unsafe: str = ""

    def check(self) -> None:
        """Check the sizes of the pools.

        Raises:
            ValueError: one is out of bounds.
        """
        for name, most in (("threads", MAX_THREADS), ("processes", MAX_PROCESSES)):
            if not 1 <= (size := getattr(self, name)) <= most:
                raise ValueError(f"{name}: {size} is not in 1 to {most}")


class DeviceCost(NamedTuple):
    """The cost of a device's stop, or of its start. Times are nanoseconds.

    Attributes:
        asked: number of messages with a reply.
        posted: number of messages without a reply.
        round_trip: one message and its reply, while no other message is in flight.
        share: one message, while those of many devices are in flight.
        besides: time in addition to messages, known from an earlier migration.
    """

    asked: int = 0
    posted: int = 0
    round_trip: int = 0
    share: int = 0
    besides: int = 0

    @property
    def in_lockstep(self) -> int:
        """The time of the device, one message after the other."""
        return self.asked * self.round_trip + self.posted * self.share + self.besides

    @property
    def in_flight(self) -> int:
        """The time of its messages while many are in flight."""
        return self.asked * self.share + self.posted * self.share // POSTED


class Strategy(ABC):
    """A scheduler of procedures.

    One object serves one migration on one side. `open` is called when the migration begins, so that
    a pool is not started in the blackout, and `close` at its end.

    Attributes:
        NAME: the value of ``--strategy``.
        HELP: one line for ``emu migrate --help``.
        ASK, CHANGE, ORIGIN: for the table in docs/explanation/strategies.md: how the strategy
            executes an Ask and a Change, and its origin.
        prepares_ahead: the destination is prepared, and the source's notifiers are deassigned,
            outside of the blackout.
        hands_over: the devices are handed over to the destination instead of being stopped
            (`emu.migration.handover`).
    """

    NAME: ClassVar[str] = ""
    HELP: ClassVar[str] = ""
    ASK: ClassVar[str] = ""
    CHANGE: ClassVar[str] = ""
    ORIGIN: ClassVar[str] = ""
    prepares_ahead: ClassVar[bool] = False
    hands_over: ClassVar[bool] = False

    @classmethod
    def from_options(cls, options: StrategyOptions) -> Self:  # noqa: ARG003  most take none
        """A strategy for one migration.

        Raises:
            ValueError: an option is invalid.
        """
        return cls()

    def open(self) -> None:  # noqa: B027  most strategies need nothing
        """Allocate the resources that the blackout needs."""

    def close(self) -> None:  # noqa: B027
        """Release the resources of `open`; idempotent."""

    @abstractmethod
    def drive(self, tasks: Sequence[Task], stage: Stage, *, halt: Halt = None) -> None:
        """Drive every task to its end, or to its first step of the type ``halt``.

        The tasks have begun (`Task.begin`). Each `Task.step` is answered by `Task.resume`, until
        it is None.

        Raises:
            VhostUserError: a device failed; the others may have stopped anywhere.
        """

    def estimate(self, costs: Sequence[DeviceCost]) -> int:
        """Nanoseconds that these devices are expected to take; by default one after the other."""
        return sum(cost.in_lockstep for cost in costs)

    def commits(self, devices: int, rings: int) -> int:  # noqa: ARG002  for those that need it
        """The number of commits in which all notifiers change, at a stop or at a start."""
        return devices

    def missed(self, error: str | None) -> str:  # noqa: ARG002  most demonstrate nothing
        """A text if the strategy demonstrates a failure that did not occur; otherwise empty.

        Args:
            error: why the migration was rolled back; None if it completed.
        """
        return ""

    def stop(self, tasks: Sequence[Task], stage: Stage) -> None:
        """Stop the devices, at the source, in the blackout."""
        self.drive(tasks, stage, halt=Change if self.prepares_ahead else None)

    def finish(self, tasks: Sequence[Task], stage: Stage) -> None:
        """Do the steps that `stop` has left, at the source, when the destination runs."""
        self.drive(tasks, stage)

    def prepare(self, tasks: Sequence[Task], stage: Stage) -> None:
        """Do the first steps of the start, at the destination, while the source still runs."""
        if self.prepares_ahead:
            self.drive(tasks, stage, halt=AwaitSwitchover)

    def start(self, tasks: Sequence[Task], stage: Stage) -> None:
        """Start the devices, at the destination, in the blackout."""
        self.drive(tasks, stage)
