"""The base class of strategies: schedulers that drive tasks, in the blackout and around it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Self

from devices.procedure import AwaitSwitchover, Change, Step

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emu.strategies.task import Stage, Task

#: The type of the step at which a drive leaves its tasks, or None to drive them to their end.
Halt = type[Step] | None

#: While many are in flight, this many messages without a reply take as long as one with a reply.
POSTED = 4


class StrategyOptions(NamedTuple):
    """Options that some strategies take.

    Attributes:
        threads: workers of a pool of threads.
        processes: workers of a pool of processes.
        unsafe: run `threads` as the RFC first tried it; one of `unsafe.MODES`, or empty.
    """

    threads: int = 8
    processes: int = 2
    unsafe: str = ""


class DeviceCost(NamedTuple):
    """What a device's stop, or its start, consists of. Times are nanoseconds.

    Attributes:
        asked: messages whose reply is waited for.
        posted: messages that have no reply.
        round_trip: one message and its reply, while nothing else is in flight.
        share: one message, while those of many devices are in flight.
        besides: what the device takes once, as it did before.
    """

    asked: int = 0
    posted: int = 0
    round_trip: int = 0
    share: int = 0
    besides: int = 0

    @property
    def in_lockstep(self) -> int:
        """The device alone, one message after the other."""
        return self.asked * self.round_trip + self.posted * self.share + self.besides

    @property
    def in_flight(self) -> int:
        """What its messages take while many are in flight."""
        return self.asked * self.share + self.posted * self.share // POSTED


class Strategy(ABC):
    """A scheduler of procedures.

    One object serves one migration on one side. `open` and `close` bracket it: what a pool needs
    is made when the migration begins, not in the blackout.

    Attributes:
        NAME: as ``--strategy`` takes it.
        HELP: one line for ``emu migrate --help``.
        ASK, CHANGE, ORIGIN: for the table in docs/explanation/strategies.md: how an Ask and a
            Change are answered, and where the strategy is from.
        prepares_ahead: the destination is prepared, and the source's notifiers are removed,
            outside of the blackout.
        hands_over: the devices are passed to the destination instead of being stopped
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
        """Make what the blackout will need."""

    def close(self) -> None:  # noqa: B027
        """Release what `open` has made. May be called twice."""

    @abstractmethod
    def drive(self, tasks: Sequence[Task], stage: Stage, *, halt: Halt = None) -> None:
        """Drive every task to its end, or to its first step of the type ``halt``.

        The tasks have begun (`Task.begin`). Each `Task.step` is answered by `Task.resume`, until
        it is None.

        Raises:
            VhostUserError: a device failed; the others may have stopped anywhere.
        """

    def estimate(self, costs: Sequence[DeviceCost]) -> int:
        """Nanoseconds that devices of these costs should take, one after the other by default."""
        return sum(cost.in_lockstep for cost in costs)

    def commits(self, devices: int, rings: int) -> int:  # noqa: ARG002  for those that need it
        """Commits in which the notifiers of so many devices change, at a stop or at a start."""
        return devices

    def missed(self, error: str | None) -> str:  # noqa: ARG002  most demonstrate nothing
        """What this strategy is meant to demonstrate, if a migration did not; otherwise empty.

        Args:
            error: why the migration was rolled back; None: it completed.
        """
        return ""

    def stop(self, tasks: Sequence[Task], stage: Stage) -> None:
        """At the source, in the blackout."""
        self.drive(tasks, stage, halt=Change if self.prepares_ahead else None)

    def finish(self, tasks: Sequence[Task], stage: Stage) -> None:
        """At the source, when the destination runs: the steps that `stop` has left."""
        self.drive(tasks, stage)

    def prepare(self, tasks: Sequence[Task], stage: Stage) -> None:
        """At the destination, while the source still runs."""
        if self.prepares_ahead:
            self.drive(tasks, stage, halt=AwaitSwitchover)

    def start(self, tasks: Sequence[Task], stage: Stage) -> None:
        """At the destination, in the blackout."""
        self.drive(tasks, stage)
