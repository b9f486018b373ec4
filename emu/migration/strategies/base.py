"""What every strategy is: something that drives tasks, in the blackout or around it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from devices.procedure import AwaitSwitchover, Change, Step

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emu.migration.strategies.task import Stage, Task

#: Steps at which a drive may be told to leave a task parked.
Halt = type[Step] | None


class Strategy(ABC):
    """A scheduler of procedures.

    One object serves one migration on one side. `open` and `close` bracket it: what a pool needs
    is made when the migration begins, not in the blackout.
    """

    name = ""
    #: Whether the destination is prepared, and the source tidied up, outside of the blackout.
    prepares_ahead = False

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
