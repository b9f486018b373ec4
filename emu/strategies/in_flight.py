"""Requests of many devices in flight at once, in one thread with one epoll instance."""

from __future__ import annotations

import select
from typing import TYPE_CHECKING

from devices.procedure import Ask
from emu.strategies.timeline import now
from vhost_user.errors import DeadlineError, VhostUserError

if TYPE_CHECKING:
    from emu.strategies.task import Stage, Task

_READ_WRITE = select.EPOLLIN | select.EPOLLOUT


class InFlight:
    """The tasks whose requests are in flight, by the descriptor of their connection.

    A task that fails is removed. `wait` still waits for the others: their requests have been sent,
    and a roll-back needs the replies.

    Attributes:
        failures: the failed tasks and their errors, in the order of the failures.
    """

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.failures: list[tuple[Task, VhostUserError]] = []
        # By the start of their spans: a task is added when its span begins.
        self._tasks: dict[int, Task] = {}
        self._epoll = select.epoll()
        self._registered: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    def send(self, task: Task, step: Ask) -> bool:
        """Send as many of a task's messages as the socket takes without blocking.

        Returns:
            True if the task waits for replies, or to send the rest. False if all messages have been
            sent and no reply is due, so the task has been resumed; also if the task has failed, so
            its step is None.
        """
        connection = step.connection
        task.begun = self._stage.timeline.begin(
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

    def wait(self) -> list[Task]:
        """Wait until at least one task has all its replies; resume these tasks and return them.

        The list is empty when every task in flight has failed.
        """
        done: list[Task] = []
        while self._tasks and not done:
            for fd, events in self._epoll.poll(self._remaining()):
                task = self._tasks.get(fd)
                if task is None:
                    # The peer has sent more, or has closed the connection, after its last reply.
                    self._unwatch(fd)
                elif self._progress(fd, task, events):
                    done.append(task)
            self._drop_overdue()
        return done

    def _progress(self, fd: int, task: Task, events: int) -> bool:
        """Send and receive; True when the task has been resumed. A failed task is removed."""
        step = task.step
        assert isinstance(step, Ask)  # noqa: S101  only an Ask is in flight
        connection = step.connection
        try:
            if events & select.EPOLLOUT and connection.flush():
                self._watch(fd, select.EPOLLIN)
            if events & ~select.EPOLLOUT:
                task.answered += connection.receive()
            if connection.outstanding or connection.wants_write:
                return False
        except VhostUserError as error:
            self._remove(fd)
            self._fail(task, error)
            return False
        # It stays registered: most connections have no further event, or are used again.
        del self._tasks[fd]
        try:
            self._resume(task, step)
        except VhostUserError as error:  # the procedure rejects a reply
            self._fail(task, error)
            return False
        return True

    def _remove(self, fd: int) -> None:
        del self._tasks[fd]
        self._unwatch(fd)

    def _unwatch(self, fd: int) -> None:
        self._epoll.unregister(fd)
        del self._registered[fd]

    def _fail(self, task: Task, error: VhostUserError) -> None:
        task.step = None
        self.failures.append((task, error))

    def _drop_overdue(self) -> None:
        """Fail the tasks that have waited for longer than the stage's timeout."""
        limit = now() - int(self._stage.timeout * 1e9)
        while self._tasks:
            fd, task = next(iter(self._tasks.items()))
            if task.begun.start > limit:
                return
            step = task.step
            phase = step.phase if isinstance(step, Ask) else None
            waited = (now() - task.begun.start) / 1e9
            error = DeadlineError("replies", waited, device=task.device, message=phase)
            if isinstance(step, Ask):
                step.connection.mark_broken(error.text)
            self._remove(fd)
            self._fail(task, error)

    def _resume(self, task: Task, step: Ask) -> None:
        self._stage.timeline.end(task.begun, units=len(step.messages))
        task.resume(step.messages.in_order(task.answered))

    def _remaining(self) -> float:
        """Seconds until the first task in flight times out."""
        oldest = next(iter(self._tasks.values())).begun.start
        return max(0.0, self._stage.timeout - (now() - oldest) / 1e9)

    def close(self) -> None:
        """Close the epoll instance; the connections stay open."""
        self._epoll.close()
