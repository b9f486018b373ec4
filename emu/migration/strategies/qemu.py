"""What QEMU does: one device after the other, one request after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from devices.procedure import Ask, AwaitSwitchover, Change
from emu.migration.strategies.base import Halt, Strategy
from emu.migration.strategies.lockstep import answer_in_lockstep
from emu.migration.timeline import now

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emu.migration.strategies.task import Stage, Task


class Qemu2021(Strategy):
    """QEMU of the RFC's days: lock-step, and a commit of its own for every notifier.

    Its "Original" column. The devices of a class take each step in turn before the next step
    begins. As everything is serial, the sum is the same as when each device takes all of its
    steps at once, and the wall time of a phase can be read off.
    """

    name = "qemu-2021"

    def drive(self, tasks: Sequence[Task], stage: Stage, *, halt: Halt = None) -> None:
        """See `Strategy.drive`."""
        for device_class in dict.fromkeys(task.device_class for task in tasks):
            running = [task for task in tasks if task.device_class == device_class]
            while running:
                for task in running:
                    if not _halted(task, halt):
                        self._answer(task, stage)
                running = [task for task in running if not _halted(task, halt)]

    def _answer(self, task: Task, stage: Stage) -> None:
        step = task.step
        if isinstance(step, Ask):
            task.resume(answer_in_lockstep(task, step, stage))
        elif isinstance(step, Change):
            self._commit(task, step, stage)
            task.resume(None)
        elif isinstance(step, AwaitSwitchover):
            task.resume(None)

    def _commit(self, task: Task, step: Change, stage: Stage) -> None:
        for edit in step.edits:
            start = now()
            stage.machine.apply([edit])
            stage.timeline.add(
                step.phase,
                start,
                device_class=task.device_class,
                device=task.device,
                ring=edit.ring,
            )


def _halted(task: Task, halt: Halt) -> bool:
    return task.step is None or (halt is not None and isinstance(task.step, halt))
