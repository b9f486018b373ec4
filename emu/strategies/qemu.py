"""The strategies of QEMU: one device after the other, one request after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from devices.procedure import Answer, Ask, Change, Phase
from emu.strategies.base import Halt, Strategy
from emu.strategies.lockstep import answer_in_lockstep
from vhost_user.errors import VhostUserError
from vhost_user.messages import FrontendRequest, Request
from vhost_user.payloads import VringState
from vhost_user.prepared import Batch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emu.strategies.task import Stage, Task

#: Messages for which QEMU requests an acknowledgement today, and did not in 2021.
_ACKNOWLEDGED = frozenset(
    {
        FrontendRequest.SET_VRING_ENABLE,
        FrontendRequest.SET_VRING_KICK,
        FrontendRequest.SET_VRING_CALL,
    }
)


class Qemu2021(Strategy):
    """QEMU of 2021: lock-step, and a commit of its own for every notifier.

    The RFC's "Original" column. All devices of a class do one step before the first does the next
    one. As every step is serial, the sum is the same as when each device does all of its steps in a
    row, and the timeline shows the wall time of each phase.
    """

    NAME = "qemu-2021"
    HELP = 'one request at a time, one commit for each notifier ("Original" in the RFC)'
    ASK = "in lock-step, one device after the other"
    CHANGE = "a commit for each notifier"
    ORIGIN = 'the RFC\'s "Original"'

    def commits(self, devices: int, rings: int) -> int:  # noqa: ARG002  see `Strategy.commits`
        """See `Strategy.commits`: a commit for each notifier."""
        return rings

    def drive(self, tasks: Sequence[Task], stage: Stage, *, halt: Halt = None) -> None:
        """See `Strategy.drive`."""
        for device_class in dict.fromkeys(task.device_class for task in tasks):
            running = [task for task in tasks if task.device_class == device_class]
            running = [task for task in running if not _halted(task, halt)]
            while running:
                self._take_step(running, stage)
                running = [task for task in running if not _halted(task, halt)]

    def _take_step(self, tasks: Sequence[Task], stage: Stage) -> None:
        """Execute the step of each task, one after the other, and then resume all.

        So the time to encode a device's next step is not part of this step. If a device fails, the
        tasks whose steps were executed are still resumed.
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
            begun = stage.timeline.begin(
                step.phase,
                device_class=task.device_class,
                device=task.device,
                ring=edit.ring,
            )
            stage.machine.apply([edit])
            stage.timeline.end(begun)


class QemuNow(Qemu2021):
    """QEMU of 2026: one commit for each device, and more round trips for each ring.

    Since the RFC, QEMU changes the host notifiers of a device in one transaction (d0267da614,
    0fdc6b8509, 6166799f69), disables a disk's rings before it stops them, and waits for the
    acknowledgements of SET_VRING_ENABLE (d7dc0682f5), SET_VRING_KICK and SET_VRING_CALL
    (1ba9a52203).
    """

    NAME = "qemu-now"
    HELP = "QEMU of 2026: one commit for each device, more acknowledgements for each ring"
    ASK = (
        "as `qemu-2021`, with a disk's rings disabled before they are stopped, and "
        "SET_VRING_ENABLE, KICK and CALL acknowledged (`d7dc0682f5`, `1ba9a52203`)"
    )
    CHANGE = "a commit for each device (`d0267da614`, `0fdc6b8509`, `6166799f69`)"
    ORIGIN = "QEMU of 2026"

    def commits(self, devices: int, rings: int) -> int:  # noqa: ARG002  see `Strategy.commits`
        """See `Strategy.commits`: a commit for each device."""
        return devices

    def _answer(self, task: Task, stage: Stage) -> Answer:
        step = task.step
        if not isinstance(step, Ask):
            return super()._answer(task, stage)
        if step.phase == Phase.GET_VRING_BASE and task.device_class == "blk":
            _disable_rings(task, step, stage)
        prepare = step.connection.prepare
        messages = Batch(
            prepare([message.request._replace(need_reply=True)])[0]
            if message.request.id in _ACKNOWLEDGED and not message.answered
            else message
            for message in step.messages
        )
        return answer_in_lockstep(task, step._replace(messages=messages), stage)

    def _commit(self, task: Task, step: Change, stage: Stage) -> None:
        begun = stage.timeline.begin(step.phase, device_class=task.device_class, device=task.device)
        stage.machine.apply(step.edits)
        stage.timeline.end(begun, units=len(step.edits))


def _disable_rings(task: Task, step: Ask, stage: Stage) -> None:
    """Send SET_VRING_ENABLE 0 for each ring that is about to be stopped; wait for each reply.

    A roll-back does not enable rings that are disabled but not stopped: if this fails, the
    connection is marked broken.
    """
    states = [message.request.payload for message in step.messages]
    requests = [
        Request(FrontendRequest.SET_VRING_ENABLE, VringState(state.ring, 0), need_reply=True)
        for state in states
        if isinstance(state, VringState)
    ]
    try:
        # The time counts, but the rings are counted where they are stopped.
        answer_in_lockstep(task, Ask.of(step.phase, step.connection, requests), stage, units=0)
    except VhostUserError as error:
        step.connection.mark_broken(error.text)
        raise


def _halted(task: Task, halt: Halt) -> bool:
    return task.step is None or (halt is not None and isinstance(task.step, halt))
