"""What every strategy is: something that drives tasks, in the blackout or around it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, NamedTuple

from devices.procedure import AwaitSwitchover, Change, Step

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emu.strategies.task import Stage, Task

#: Steps at which a drive may be told to leave a task parked.
Halt = type[Step] | None


#: Where many are under way, so many messages without a reply take as long as one with a reply.
POSTED = 4


class DeviceCost(NamedTuple):
    """What a device's stop, or its start, consists of. Times are nanoseconds.

    Attributes:
        asked: messages whose reply is waited for.
        posted: messages to which none is due.
        round_trip: one message and its reply, while nothing else is under way.
        share: one message, where those of many devices are under way.
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
        """What its messages take where nobody waits for a single one of them."""
        return self.asked * self.share + self.posted * self.share // POSTED


class Strategy(ABC):
    """A scheduler of procedures.

    One object serves one migration on one side. `open` and `close` bracket it: what a pool needs
    is made when the migration begins, not in the blackout.
    """

    name = ""
    #: Whether the destination is prepared, and the source tidied up, outside of the blackout.
    prepares_ahead = False
    #: Whether the devices change hands instead of being stopped (`emu.migration.handover`).
    hands_over = False

    def open(self) -> None:  # noqa: B027  most strategies need nothing
        """Make what the blackout will need."""

    def close(self) -> None:  # noqa: B027
        """End what `open` has made. May be called twice."""

    @abstractmethod
    def drive(self, tasks: Sequence[Task], stage: Stage, *, halt: Halt = None) -> None:
        """Drive every task to its end, or to its first step of the type ``halt``.

        Raises:
            VhostUserError: a device failed; the others may have stopped anywhere.
        """

    def estimate(self, costs: Sequence[DeviceCost]) -> int:
        """Nanoseconds that devices of these costs should take, if one comes after the other."""
        return sum(cost.in_lockstep for cost in costs)

    def stop(self, tasks: Sequence[Task], stage: Stage) -> None:
        """At the source, in the blackout."""
        self.drive(tasks, stage, halt=Change if self.prepares_ahead else None)

    def tidy(self, tasks: Sequence[Task], stage: Stage) -> None:
        """At the source, when the destination runs: what `stop` has left over."""
        self.drive(tasks, stage)

    def prepare(self, tasks: Sequence[Task], stage: Stage) -> None:
        """At the destination, while the source still runs."""
        if self.prepares_ahead:
            self.drive(tasks, stage, halt=AwaitSwitchover)

    def start(self, tasks: Sequence[Task], stage: Stage) -> None:
        """At the destination, in the blackout."""
        self.drive(tasks, stage)
