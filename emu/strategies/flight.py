"""Many questions in flight at once, on one thread with one selector."""

from __future__ import annotations

import select
from typing import TYPE_CHECKING

from devices.procedure import Ask
from emu.strategies.timeline import now
from vhost_user.errors import DeadlineError, VhostUserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emu.strategies.task import Stage, Task
    from vhost_user.messages import Reply

_READ_WRITE = select.EPOLLIN | select.EPOLLOUT


class Flight:
    """The tasks whose Ask is under way, by the descriptor of their connection.

    A device that fails drops out, and the others are waited for all the same: their back-ends
    have been asked already, and a roll-back needs their answers.

    Attributes:
        failures: what the tasks that dropped out failed with, in the order in which they did.
    """

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.failures: list[tuple[Task, VhostUserError]] = []
        self._tasks: dict[int, Task] = {}
        self._epoll = select.epoll()
        self._registered: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    def launch(self, task: Task, step: Ask) -> bool:
        """Send all of a task's messages as far as they go without waiting.

        Returns:
            False when the task waits for nothing: no reply is due and everything has been sent.
            It has been resumed then, and has a new step; or it has failed, and has none.
        """
        connection = step.connection
        task.started = self._stage.timeline.begin(
            step.phase, device_class=task.device_class, device=task.device
        )
        task.answered = []
        try:
            if not connection.post(step.messages) and not connection.wants_write:
                self._resume(task, step)
                return False
        except VhostUserError as error:
            self._fail(task, error)
            return False
        fd = connection.fileno()
        self._tasks[fd] = task
        self._watch(fd, _READ_WRITE if connection.wants_write else select.EPOLLIN)
        return True

    def _watch(self, fd: int, events: int) -> None:
        known = self._registered.get(fd)
        if known is None:
            self._epoll.register(fd, events)
        elif known != events:
            self._epoll.modify(fd, events)
        self._registered[fd] = events

    def landed(self) -> list[Task]:
        """Wait until tasks have all of their replies; resume them and return them.

        Nothing comes back when all that were left have failed.
        """
        done: list[Task] = []
        while self._tasks and not done:
            for fd, events in self._epoll.poll(self._patience()):
                task = self._tasks.get(fd)
                if task is not None and self._serve(fd, task, events):
                    done.append(task)
            self._drop_overdue()
        return done

    def _serve(self, fd: int, task: Task, events: int) -> bool:
        """Whether the task has landed. One that fails is dropped."""
        step = task.step
        assert isinstance(step, Ask)  # noqa: S101  only asking tasks are in flight
        connection = step.connection
        try:
            if events & select.EPOLLOUT and connection.flush():
                self._watch(fd, select.EPOLLIN)
            if events & ~select.EPOLLOUT:
                task.answered += connection.receive()
            if connection.outstanding or connection.wants_write:
                return False
        except VhostUserError as error:
            self._forget(fd)
            self._fail(task, error)
            return False
        self._forget(fd)
        try:
            self._resume(task, step)
        except VhostUserError as error:  # the procedure does not like what it was answered
            self._fail(task, error)
            return False
        return True

    def _forget(self, fd: int) -> None:
        del self._tasks[fd]
        # A connection that has hung up would be ready for ever.
        self._epoll.unregister(fd)
        del self._registered[fd]

    def _fail(self, task: Task, error: VhostUserError) -> None:
        task.step = None
        self.failures.append((task, error))

    def _drop_overdue(self) -> None:
        """Tasks that have waited for longer than the stage's timeout fail."""
        limit = now() - int(self._stage.timeout * 1e9)
        for fd, task in list(self._tasks.items()):
            if task.started <= limit:
                step = task.step
                phase = step.phase if isinstance(step, Ask) else None
                waited = (now() - task.started) / 1e9
                error = DeadlineError("replies", waited, device=task.device, message=phase)
                if isinstance(step, Ask):
                    step.connection.mark_broken(error.text)
                self._forget(fd)
                self._fail(task, error)

    def _resume(self, task: Task, step: Ask) -> None:
        self._stage.timeline.add(
            step.phase,
            task.started,
            device_class=task.device_class,
            device=task.device,
            units=len(step.messages),
        )
        task.resume(aligned(step, task.answered))

    def _patience(self) -> float:
        """Seconds until the first of the waiting tasks runs out of time."""
        oldest = min(task.started for task in self._tasks.values())
        return max(0.0, self._stage.timeout - (now() - oldest) / 1e9)

    def close(self) -> None:
        """Give the selector back; the connections stay open."""
        self._epoll.close()


def aligned(step: Ask, replies: Sequence[Reply]) -> Sequence[Reply | None]:
    """Replies at the places of their messages, None where no reply was due."""
    if len(replies) == len(step.messages):
        return replies
    source = iter(replies)
    return [next(source) if message.answered else None for message in step.messages]
