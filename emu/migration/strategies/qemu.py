"""What QEMU does: one device after the other, one request after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from devices.procedure import Answer, Ask, Change
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
            running = [task for task in running if not _halted(task, halt)]
            while running:
                self._take_step(running, stage)
                running = [task for task in running if not _halted(task, halt)]

    def _take_step(self, tasks: Sequence[Task], stage: Stage) -> None:
        """Answer the step of each, one after the other, and then let all go on.

        What a device puts together for its next step is no part of this one. When one fails,
        those that have been answered must learn of their answers all the same.
        """
        answers: list[tuple[Task, Answer]] = []
        try:
            for task in tasks:
                answers.append((task, self._answer(task, stage)))  # noqa: PERF401  see above
        finally:
            for task, answer in answers:
                task.resume(answer)

    def _answer(self, task: Task, stage: Stage) -> Answer:
        step = task.step
        if isinstance(step, Ask):
            return answer_in_lockstep(task, step, stage)
        if isinstance(step, Change):
            self._commit(task, step, stage)
        return None

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
