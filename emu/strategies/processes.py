"""The RFC's pool with processes instead of threads: each has a GIL of its own."""

from __future__ import annotations

import select
import socket
import struct
import subprocess
import sys
from collections import deque
from typing import TYPE_CHECKING, Self

from devices.procedure import Ask, AwaitSwitchover, Change
from emu.errors import ProgramError
from emu.strategies import socket_worker as wire
from emu.strategies.base import DeviceCost, Halt, Strategy, StrategyOptions
from emu.strategies.split import commit_together
from emu.strategies.timeline import OpenSpan
from vhost_user.codec import close_all
from vhost_user.errors import DeadlineError, Disconnected, VhostUserError
from vhost_user.payloads import VringState

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from emu.strategies.task import Stage, Task
    from vhost_user.frontend import FrontendConnection
    from vhost_user.messages import Reply
    from vhost_user.prepared import Message

_COMMAND = (sys.executable, "-P", "-m", "emu.strategies.socket_worker")
#: Jobs that a worker has at one time, so that it does not wait for the coordinator between two.
_DEPTH = 2
#: Descriptors in one job, besides the device's socket; and bytes of messages.
_MAX_FDS = wire.MAX_FDS - 1
_MAX_BYTES = wire.PACKET // 2
#: Seconds for a worker to start.
_START_TIMEOUT = 30.0
#: Seconds for a worker to end after its channel was closed; also added to a back-end's timeout.
_END_TIMEOUT = 5.0


class Processes(Strategy):
    """One device per job, lock-step within a job; the coordinator commits the edits.

    The workers are processes that `open` starts. They get the devices' sockets by SCM_RIGHTS, and
    send and receive bytes; procedures, sessions and commits stay in this process, on one thread.
    Edits of devices whose results arrive together share a commit.

    Args:
        workers: size of the pool.
    """

    NAME = "processes"
    HELP = "as threads, with processes that receive the devices' sockets"
    ASK = (
        "a pool of processes, which receive the devices' sockets by SCM_RIGHTS, each with one "
        "device at a time, in lock-step"
    )
    CHANGE = "as `threads`"
    ORIGIN = "the RFC's proposal; each worker has a GIL (Python's interpreter lock) of its own"

    def __init__(self, workers: int = 2) -> None:
        self._size = workers
        self._workers: list[Worker] = []

    @classmethod
    def from_options(cls, options: StrategyOptions) -> Self:
        """See `Strategy.from_options`."""
        return cls(options.processes)

    def open(self) -> None:
        """Start the processes, and wait until all are ready; a blackout is too short for that.

        Raises:
            OSError, ProgramError: they cannot be started.
        """
        for number in range(self._size):
            self._workers.append(Worker(number))
        for worker in self._workers:
            worker.await_ready()

    def close(self) -> None:
        """End the pool."""
        for worker in self._workers:
            worker.close_channel()
        for worker in self._workers:
            worker.close()
        self._workers = []

    def estimate(self, costs: Sequence[DeviceCost]) -> int:
        """The sum shared among the workers, but at least the time of the slowest device."""
        alone = [cost.in_lockstep for cost in costs]
        return max(max(alone, default=0), sum(alone) // self._size)

    def drive(self, tasks: Sequence[Task], stage: Stage, *, halt: Halt = None) -> None:
        """See `Strategy.drive`.

        Raises:
            ProgramError: a worker has ended.
        """
        if not self._workers:
            raise RuntimeError("open() has not been called: there is no pool")
        batch = _Batch(self._workers, stage, halt)
        try:
            for task in tasks:
                batch.advance(task)
            while batch.work():
                pass
        finally:
            batch.drain()
        if batch.failures:
            raise batch.failures[0]


class Worker:
    """A worker process, seen from the coordinator.

    Args:
        number: of the worker, for errors.

    Attributes:
        jobs: sent and without a result yet, in the order of their results.
        channel: carries jobs and results.
    """

    def __init__(self, number: int) -> None:
        self.jobs: deque[Job] = deque()
        self._title = f"worker {number} of the pool"
        self._known: dict[int, FrontendConnection] = {}
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [*_COMMAND, str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                )
            except OSError:
                self.channel.close()
                raise

    def await_ready(self) -> None:
        """Return when the worker is ready.

        Raises:
            ProgramError: it does not start, or has ended.
        """
        poll = select.poll()
        poll.register(self.channel, select.POLLIN)
        if not poll.poll(_START_TIMEOUT * 1000) or self.channel.recv(wire.PACKET) != wire.READY:
            raise ProgramError(f"{self._title} does not start")

    def send(self, job: Job, timeout: float) -> None:
        """Send a job's next part.

        Raises:
            ProgramError: the worker has ended.
        """
        connection = job.step.connection
        key = id(connection) & 0xFFFF_FFFF
        fds: list[int] = []
        if self._known.get(key) is not connection:
            self._known[key] = connection
            fds.append(connection.fileno())
        messages = job.part
        head = wire.JOB.pack(key, max(1, int(timeout * 1000)), len(fds), len(messages))
        table = [
            wire.MESSAGE.pack(len(message.data), len(message.request.fds), message.answered)
            for message in messages
        ]
        for message in messages:
            fds += message.request.fds
        connection.mark_sent(messages)
        self.jobs.append(job)
        packet = b"".join([head, *table, *[message.data for message in messages]])
        try:
            self.channel.sendmsg([packet], wire.rights(fds), socket.MSG_NOSIGNAL)
        except OSError as error:
            raise self._ended(error) from error

    def receive(self) -> tuple[Job, bytes, list[int]]:
        """The next result: its job, its packet and the descriptors that came with it.

        Raises:
            ProgramError: the worker has ended.
        """
        try:
            size = wire.MAX_FDS * struct.calcsize("i")
            packet, ancillary, _, _ = self.channel.recvmsg(
                wire.PACKET, socket.CMSG_SPACE(size), socket.MSG_CMSG_CLOEXEC
            )
        except OSError as error:
            raise self._ended(error) from error
        if not packet:
            raise self._ended(None)
        return self.jobs.popleft(), packet, wire.descriptors(ancillary)

    def _ended(self, error: OSError | None) -> ProgramError:
        """The error; marks the connections of its jobs broken, as some bytes may have been sent."""
        reason = f": {error.strerror}" if error is not None else ""
        text = f"{self._title} ended unexpectedly{reason}"
        for job in self.jobs:
            job.step.connection.mark_broken(text)
        self.jobs.clear()
        return ProgramError(text)

    def close_channel(self) -> None:
        """Close the channel, so that the worker ends."""
        self.channel.close()

    def close(self) -> None:
        """Wait for the process to end, and kill it if it does not."""
        try:
            self._process.wait(_END_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._known.clear()


class Job:
    """An Ask that workers execute, in parts that fit into one packet each."""

    def __init__(self, task: Task, step: Ask) -> None:
        self.task = task
        self.step = step
        self.replies: list[Reply] = []
        self._parts = deque(_parts(step.messages))
        self.part: Sequence[Message] = ()

    def next_part(self) -> bool:
        """Select the next part; False if there is none."""
        if not self._parts:
            return False
        self.part = self._parts.popleft()
        return True


def _parts(messages: Iterable[Message]) -> Iterable[Sequence[Message]]:
    part: list[Message] = []
    fds = size = 0
    for message in messages:
        fds += len(message.request.fds)
        size += len(message.data)
        if part and (fds > _MAX_FDS or size > _MAX_BYTES):
            yield part
            part, fds, size = [], len(message.request.fds), len(message.data)
        part.append(message)
    if part:
        yield part


class _Batch:
    """The work of the pool during one drive.

    Attributes:
        failures: errors, in the order in which they occurred.
    """

    def __init__(self, workers: Sequence[Worker], stage: Stage, halt: Halt) -> None:
        self.failures: list[Exception] = []
        self._workers = workers
        self._stage = stage
        self._halt = halt
        self._queue: deque[Job] = deque()
        self._changing: list[Task] = []
        self._poll = select.poll()
        self._by_fd = {worker.channel.fileno(): worker for worker in workers}
        for fd in self._by_fd:
            self._poll.register(fd, select.POLLIN)

    def advance(self, task: Task) -> None:
        """Run a task until it needs a worker or a commit, reaches ``halt``, or ends."""
        while task.step is not None and not (
            self._halt is not None and isinstance(task.step, self._halt)
        ):
            step = task.step
            if isinstance(step, AwaitSwitchover):
                task.resume(None)
            elif isinstance(step, Change):
                self._changing.append(task)
                return
            else:
                job = Job(task, step)
                if job.next_part():
                    self._queue.append(job)
                    return
                task.resume([])

    def work(self) -> bool:
        """One round: send jobs, wait for results, commit edits; False when no work is left."""
        self._send_jobs()
        if self._busy:
            for worker in self._ready():
                self._handle_result(worker)
        if self.failures:
            return False
        changing, self._changing = self._changing, []
        if changing:
            commit_together(changing, self._stage)
            for task in changing:
                self.advance(task)
        return bool(self._busy or self._queue or self._changing)

    @property
    def _busy(self) -> int:
        return sum(len(worker.jobs) for worker in self._workers)

    def _send_jobs(self) -> None:
        for depth in range(_DEPTH):
            for worker in self._workers:
                if self._queue and len(worker.jobs) <= depth:
                    worker.send(self._queue.popleft(), self._stage.timeout)

    def _ready(self) -> list[Worker]:
        """The workers that have a result; at least one.

        Raises:
            DeadlineError: no worker has sent a result. Each of their messages has a timeout, so the
                workers hang.
        """
        timeout = self._stage.timeout + _END_TIMEOUT
        longest = max(len(job.part) for worker in self._workers for job in worker.jobs)
        events = self._poll.poll(timeout * longest * 1000)
        if not events:
            for worker in self._workers:
                for job in worker.jobs:
                    job.step.connection.mark_broken("a worker of the pool does not answer")
                worker.jobs.clear()
            raise DeadlineError("a worker of the pool", timeout)
        return [self._by_fd[fd] for fd, _ in events]

    def _handle_result(self, worker: Worker) -> None:
        """Resume the task of the next result, and advance it unless there was a failure."""
        try:
            job, packet, fds = worker.receive()
        except ProgramError as error:
            self.failures.append(error)
            self._poll.unregister(worker.channel)
            return
        task, step = job.task, job.step
        try:
            job.replies += self._read(job, packet, fds)
            if job.next_part():
                self._queue.appendleft(job)
                return
            task.resume(step.messages.in_order(job.replies))
        except VhostUserError as error:
            task.step = None
            self.failures.append(error)
        else:
            if not self.failures:
                self.advance(task)

    def _read(self, job: Job, packet: bytes, fds: list[int]) -> list[Reply]:
        """The replies of a result; raises the errors that the front-end's own calls would raise."""
        step, task = job.step, job.task
        outcome, count, number = wire.RESULT.unpack_from(packet)
        at = wire.RESULT.size
        for message in job.part[:count]:
            start, end, _ = wire.DONE.unpack_from(packet, at)
            at += wire.DONE.size
            payload = message.request.payload
            ring = payload.ring if isinstance(payload, VringState) else None
            begun = OpenSpan(step.phase, task.device_class, task.device, ring, start)
            self._stage.timeline.end(begun, at=end)
        data = packet[at:]
        try:
            replies = step.connection.feed(data, fds) if data else []
        except VhostUserError as error:
            if outcome != wire.FINISHED:
                step.connection.mark_broken(error.text)
            raise
        if outcome == wire.FINISHED:
            return replies
        for reply in replies:
            close_all(reply.fds)
        name = job.part[count].allowed.name
        failure = self._failure(outcome, number, task.device, name)
        step.connection.mark_broken(failure.text)
        raise failure

    def _failure(self, outcome: int, number: int, device: str, message: str) -> VhostUserError:
        """The error of a job that did not finish; ``number`` is the errno of the worker."""
        if outcome == wire.TIMED_OUT:
            return DeadlineError("a reply", self._stage.timeout, device=device, message=message)
        return Disconnected(
            f"the peer has closed the connection (errno {number})",
            device=device,
            message=message,
        )

    def drain(self) -> None:
        """Wait until all workers are idle: a roll-back must be the only user of the devices."""
        while self._busy:
            for worker in self._ready():
                self._handle_result(worker)
