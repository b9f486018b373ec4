"""What a worker of a cluster runs: one task at a time, in a process that has its cores alone.

The resource `TIMING` of the workers keeps a scheduler from giving one of them two tasks. Two of its
workers may share the cores of one host, though: `_reserved` lets a task wait until no other task of
the scheduler uses one of its cores.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import threading
import time
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, NamedTuple

from emu.errors import EmuError
from emu.orchestrator.managed_process import PYTHON

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

#: The resource of which each worker has one, and each task takes one.
TIMING = "timing"
#: The cores of a worker, such as ``0,1``; without it, those that its process may use.
CORES_VARIABLE = "VHOST_EMU_CORES"
#: Seconds to wait for cores that another task uses, and between two attempts.
_RESERVE_TIMEOUT, _RESERVE_INTERVAL = 3600.0, 0.1
#: Seconds for the process of a task to end in order, and between two looks at it.
_END_TIMEOUT, _END_INTERVAL = 8.0, 0.02


class WorkerError(EmuError):
    """This worker cannot run any task of the command."""


class Task(NamedTuple):
    """A module that is run as a program.

    Attributes:
        label: its name in messages.
        words: of its command: the module, and its arguments.
        data: of its standard input.
    """

    label: str
    words: tuple[str, ...]
    data: bytes = b""


class Job(NamedTuple):
    """One task, for a worker.

    Attributes:
        command: a name that no other run of a command has.
        scheduler: its id.
        task: what is to be run.
        version: of vhost-emu, which has to be the worker's.
    """

    command: str
    scheduler: str
    task: Task
    version: str


class Output(NamedTuple):
    """What has become of a task.

    Attributes:
        status: of its process; None if it has none, as the worker ended it or ended itself.
        data: of its standard output.
        failure: why the status is not 0, in a line; else empty.
    """

    status: int | None
    data: bytes = b""
    failure: str = ""


class _Commands:
    """The commands that have ended, and the processes of their tasks that run."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ended: set[str] = set()
        self._processes: dict[str, set[subprocess.Popen[bytes]]] = {}

    def start(self, command: str, task: Task) -> subprocess.Popen[bytes] | None:
        """The process of a task of the command; None if the command has ended."""
        with self._lock:
            if command in self._ended:
                return None
            process = subprocess.Popen(
                [*PYTHON, "-m", "emu.cluster.process", str(os.getpid()), *task.words],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                process_group=0,  # Ctrl-C on the terminal is the client's
            )
            self._processes.setdefault(command, set()).add(process)
            return process

    def forget(self, command: str, process: subprocess.Popen[bytes]) -> None:
        """The process has ended."""
        with self._lock:
            self._processes[command].discard(process)

    def end(self, command: str) -> list[subprocess.Popen[bytes]]:
        """Start no further task of the command; the processes of those that run."""
        with self._lock:
            self._ended.add(command)
            return list(self._processes.get(command, ()))

    def ended(self, command: str) -> bool:
        """Whether the command has ended."""
        with self._lock:
            return command in self._ended


_COMMANDS = _Commands()


def run_task(job: Job) -> Output:
    """Run the task in a process of its own, on a thread of the worker.

    Raises:
        WorkerError: no task of the command can run here.
    """
    here = version("vhost-emu")
    if here != job.version:
        raise WorkerError(f"a worker has vhost-emu {here}, and this is {job.version}")
    with _reserved(job, _cores()):
        process = _COMMANDS.start(job.command, job.task)
        if process is None:
            return Output(None, failure="ended")
        try:
            output, errors = process.communicate(job.task.data)
        finally:
            process.kill()
            process.wait()
            _COMMANDS.forget(job.command, process)
    status = process.returncode
    if not status:
        return Output(status, output)
    cause = f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
    last = errors.decode(errors="replace").strip().rpartition("\n")[2]
    return Output(status, output, f"its process ended {cause}" + (f": {last}" if last else ""))


async def end_tasks(command: str) -> None:
    """End the tasks of a command on this worker, in order, and start no further ones.

    It runs in the worker's event loop.
    """
    processes = _COMMANDS.end(command)
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + _END_TIMEOUT
    while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
        await asyncio.sleep(_END_INTERVAL)  # the thread of `run_task` waits for the end
    for process in processes:
        process.kill()


def _cores() -> set[int]:
    """The cores of this worker, to which the calling thread and its processes are bound."""
    given = os.environ.get(CORES_VARIABLE)
    if given is not None:
        os.sched_setaffinity(0, map(int, given.split(",")))
    return os.sched_getaffinity(0)


@contextmanager
def _reserved(job: Job, cores: Collection[int]) -> Iterator[None]:
    """Wait until no other task of the scheduler uses one of the cores here, and keep them.

    A name in the abstract namespace of unix sockets belongs to one socket at a time, and is free
    again when its process ends, however it ends.

    Raises:
        WorkerError: the cores are used for too long.
    """
    deadline = time.monotonic() + _RESERVE_TIMEOUT
    with ExitStack() as stack:
        for core in sorted(cores):  # in one order, so that two tasks do not wait for each other
            name = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
            address = f"\0vhost-emu-{job.scheduler}-core-{core}"
            while not _bound(name, address) and not _COMMANDS.ended(job.command):
                if time.monotonic() >= deadline:
                    raise WorkerError(
                        f"two workers share core {core} of a host, and one has used it for "
                        f"{_RESERVE_TIMEOUT:g} s: bind them to different cores with taskset"
                    )
                time.sleep(_RESERVE_INTERVAL)
        yield


def _bound(name: socket.socket, address: str) -> bool:
    try:
        name.bind(address)
    except OSError:
        return False
    return True
