"""The reply to the RFC on qemu-devel: send to every back-end, then wait for all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from devices.procedure import AwaitSwitchover, Change, Phase
from emu.strategies.base import DeviceCost, Halt, Strategy
from emu.strategies.in_flight import InFlight
from emu.strategies.timeline import now

if TYPE_CHECKING:
    from collections.abc import Sequence

    from devices.notifiers import Edit
    from emu.strategies.task import Stage, Task
    from vhost_user.errors import VhostUserError


class Split(Strategy):
    """All messages of all devices in flight at once: one thread, one selector, one commit.

    Args:
        lenient: when a device fails, the tasks of the others are still driven to their end; its
            error is in `failures`, and `drive` does not raise it.

    Attributes:
        failures: errors of the last drive by device name, when lenient.
    """

    NAME = "split"
    HELP = "all requests of all devices in flight, one commit"
    ASK = "all messages of all devices in flight, one thread, one selector"
    CHANGE = "one commit for all"
    ORIGIN = "a reply to the RFC on qemu-devel"

    def __init__(self, *, lenient: bool = False) -> None:
        self.failures: dict[str, VhostUserError] = {}
        self._lenient = lenient

    def drive(self, tasks: Sequence[Task], stage: Stage, *, halt: Halt = None) -> None:
        """See `Strategy.drive`."""
        in_flight = InFlight(stage)
        ready = list(tasks)
        changing: list[Task] = []
        try:
            while ready:
                for task in ready:
                    if self._lenient or not in_flight.failures:
                        self._advance(task, in_flight, halt)
                    if isinstance(task.step, Change) and halt is not Change:
                        changing.append(task)
                ready = in_flight.wait()
                if not ready and (self._lenient or not in_flight.failures):
                    # No reply is outstanding, so no further edit can join this commit.
                    ready, changing = changing, []
                    commit_together(ready, stage)
        finally:
            in_flight.close()
        self.failures = {task.device: error for task, error in in_flight.failures}
        if in_flight.failures and not self._lenient:
            raise in_flight.failures[0][1]

    def commits(self, devices: int, rings: int) -> int:  # noqa: ARG002  see `Strategy.commits`
        """See `Strategy.commits`: one for all devices."""
        return 1

    def estimate(self, costs: Sequence[DeviceCost]) -> int:
        """The round trip of the slowest device, and the handling of all devices' messages."""
        slowest = max((cost.round_trip + cost.besides for cost in costs), default=0)
        return slowest + sum(cost.in_flight for cost in costs)

    def _advance(self, task: Task, in_flight: InFlight, halt: Halt) -> None:
        """Run a task until it waits for replies or a commit, or reaches ``halt``, or ends."""
        while task.step is not None and not (halt is not None and isinstance(task.step, halt)):
            if isinstance(task.step, AwaitSwitchover):
                task.resume(None)
            elif isinstance(task.step, Change) or in_flight.send(task, task.step):
                return


def commit_together(tasks: Sequence[Task], stage: Stage) -> None:
    """Commit the edits of all these tasks, phase by phase, and resume the tasks.

    One commit serves all devices, so the span of each device class covers the same time.
    """
    phases: dict[Phase, list[Task]] = {}
    for task in tasks:
        if isinstance(task.step, Change):
            phases.setdefault(task.step.phase, []).append(task)
    for phase, members in phases.items():
        edits: list[Edit] = []
        classes: dict[str, int] = {}
        for task in members:
            step = task.step
            if isinstance(step, Change):
                edits += step.edits
                classes[task.device_class] = classes.get(task.device_class, 0) + len(step.edits)
        begun = [stage.timeline.begin(phase, device_class=each) for each in classes]
        stage.machine.apply(edits)
        end = now()
        for span, count in zip(begun, classes.values(), strict=True):
            stage.timeline.end(span._replace(start=begun[0].start), units=count, at=end)
        for task in members:
            task.resume(None)
