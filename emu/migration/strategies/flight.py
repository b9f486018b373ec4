"""Many questions in flight at once, on one thread with one selector."""

from __future__ import annotations

import select
from typing import TYPE_CHECKING

from devices.procedure import Ask
from emu.migration.timeline import now
from vhost_user.errors import DeadlineError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emu.migration.strategies.task import Stage, Task
    from vhost_user.messages import Reply

_READ_WRITE = select.EPOLLIN | select.EPOLLOUT


class Flight:
    """The tasks whose Ask is under way, by the descriptor of their connection."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._tasks: dict[int, Task] = {}
        self._epoll = select.epoll()
        self._registered: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    def launch(self, task: Task, step: Ask) -> bool:
        """Send all of a task's messages as far as they go without waiting.

        Returns:
            False when the task waits for nothing: no reply is due and everything has been sent.
            It has been resumed then, and has a new step.
        """
        connection = step.connection
        task.started = now()
        task.answered = []
        if not connection.post(step.messages) and not connection.wants_write:
            self._resume(task, step)
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

        Raises:
            DeadlineError: one has waited for longer than the stage's deadline.
        """
        done: list[Task] = []
        while not done:
            for fd, events in self._epoll.poll(self._patience()):
                task = self._tasks.get(fd)
                if task is not None and self._serve(fd, task, events):
                    done.append(task)
        return done

    def _serve(self, fd: int, task: Task, events: int) -> bool:
        step = task.step
        assert isinstance(step, Ask)  # noqa: S101  only asking tasks are in flight
        connection = step.connection
        if events & select.EPOLLOUT and connection.flush():
            self._watch(fd, select.EPOLLIN)
        if events & ~select.EPOLLOUT:
            task.answered += connection.receive()
        if connection.outstanding or connection.wants_write:
            return False
        del self._tasks[fd]
        self._resume(task, step)
        return True

    def _resume(self, task: Task, step: Ask) -> None:
        self._stage.timeline.add(
            step.phase,
            task.started,
            device_class=task.device_class,
            device=task.device,
            units=len(step.messages),
        )
        task.resume(_aligned(step, task.answered))

    def _patience(self) -> float:
        """Seconds until the first of the waiting tasks runs out of time."""
        oldest = min(self._tasks.values(), key=lambda task: task.started)
        waited = (now() - oldest.started) / 1e9
        if waited >= self._stage.deadline:
            step = oldest.step
            raise DeadlineError(
                f"replies of {len(self._tasks)} devices",
                waited,
                device=oldest.device,
                message=step.phase if isinstance(step, Ask) else None,
            )
        return self._stage.deadline - waited

    def close(self) -> None:
        """Give the selector back; the connections stay open."""
        self._epoll.close()


def _aligned(step: Ask, replies: Sequence[Reply]) -> Sequence[Reply | None]:
    """Replies at the places of their messages, None where no reply was due."""
    if len(replies) == len(step.messages):
        return replies
    source = iter(replies)
    return [next(source) if message.answered else None for message in step.messages]
