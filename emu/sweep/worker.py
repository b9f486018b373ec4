"""What a worker of a cluster runs: one point at a time, in a process that has its cores alone.

The resource `TIMING` of the workers keeps a scheduler from giving one of them two points. Two
workers on one host may share cores, though: `_reserved` lets a point wait until no other point of
the host uses one of its cores.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import socket
import subprocess
import threading
import time
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, NamedTuple

from emu.errors import EmuError
from emu.json_input import JsonInputError, Maybe, Members, read
from emu.orchestrator.managed_process import PYTHON
from emu.sweep.point import PointResult

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from emu.config.plan import MigrationPlan

#: The resource of which each worker has one, and each point takes one.
TIMING = "timing"
#: The cores of a worker, such as ``0,1``; without it, those that its process may use.
CORES_VARIABLE = "VHOST_EMU_SWEEP_CORES"
#: Seconds to wait for cores that another point uses, and between two attempts.
_RESERVE_TIMEOUT, _RESERVE_INTERVAL = 3600.0, 0.1
#: Seconds for the process of a point to end in order, and between two looks at it.
_END_TIMEOUT, _END_INTERVAL = 8.0, 0.02
_RESULT = Members({"document": Maybe(object), "failure": str, "complete": bool})


class WorkerError(EmuError):
    """This worker cannot run any point of the sweep."""


class Job(NamedTuple):
    """One point, for a worker.

    Attributes:
        sweep: a name that no other sweep has.
        plan: of the point.
        version: of vhost-emu, which has to be the worker's.
    """

    sweep: str
    plan: MigrationPlan
    version: str


class _Sweeps:
    """The sweeps that this process has ended, and the processes of points that run."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ended: set[str] = set()
        self._processes: dict[str, set[subprocess.Popen[bytes]]] = {}

    def start(self, sweep: str) -> subprocess.Popen[bytes] | None:
        """The process of a point of the sweep; None if the sweep was ended."""
        with self._lock:
            if sweep in self._ended:
                return None
            process = subprocess.Popen(
                [*PYTHON, "-m", "emu.sweep.point", str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                process_group=0,  # Ctrl-C on the terminal is the client's
            )
            self._processes.setdefault(sweep, set()).add(process)
            return process

    def forget(self, sweep: str, process: subprocess.Popen[bytes]) -> None:
        """The process has ended."""
        with self._lock:
            self._processes[sweep].discard(process)

    def end(self, sweep: str) -> list[subprocess.Popen[bytes]]:
        """Start no further point of the sweep; the processes of those that run."""
        with self._lock:
            self._ended.add(sweep)
            return list(self._processes.get(sweep, ()))

    def ended(self, sweep: str) -> bool:
        """Whether the sweep was ended."""
        with self._lock:
            return sweep in self._ended


_SWEEPS = _Sweeps()


def run_point(job: Job) -> PointResult:
    """Run the point in a process of its own, on a thread of the worker.

    Raises:
        WorkerError: no point of the sweep can run here.
    """
    here = version("vhost-emu")
    if here != job.version:
        raise WorkerError(f"a worker has vhost-emu {here}, and this is {job.version}")
    with _reserved(job.sweep, _cores()):
        process = _SWEEPS.start(job.sweep)
        if process is None:
            return PointResult(None, "ended")
        try:
            output, errors = process.communicate(pickle.dumps(job.plan))
        finally:
            process.kill()
            process.wait()
            _SWEEPS.forget(job.sweep, process)
    if process.returncode:
        status = process.returncode
        cause = f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
        last = errors.decode(errors="replace").strip().rpartition("\n")[2]
        return PointResult(None, f"its process ended {cause}" + (f": {last}" if last else ""))
    try:
        return PointResult(**read(output, _RESULT))
    except JsonInputError as error:
        return PointResult(None, f"its process wrote something else than a result: {error}")


async def end_points(sweep: str) -> None:
    """End the points of a sweep on this worker, in order, and start no further ones.

    It runs in the worker's event loop.
    """
    processes = _SWEEPS.end(sweep)
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + _END_TIMEOUT
    while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
        await asyncio.sleep(_END_INTERVAL)  # the thread of `run_point` waits for the end
    for process in processes:
        process.kill()


def _cores() -> set[int]:
    """The cores of this worker, to which the calling thread and its processes are bound."""
    given = os.environ.get(CORES_VARIABLE)
    if given is not None:
        os.sched_setaffinity(0, map(int, given.split(",")))
    return os.sched_getaffinity(0)


@contextmanager
def _reserved(sweep: str, cores: Collection[int]) -> Iterator[None]:
    """Wait until no other point on this host uses one of the cores, and keep them.

    A name in the abstract namespace of unix sockets belongs to one socket at a time, and is free
    again when its process ends, however it ends.

    Raises:
        WorkerError: the cores are used for too long.
    """
    deadline = time.monotonic() + _RESERVE_TIMEOUT
    with ExitStack() as stack:
        for core in sorted(cores):  # in one order, so that two points do not wait for each other
            name = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
            while not _bound(name, core) and not _SWEEPS.ended(sweep):
                if time.monotonic() >= deadline:
                    raise WorkerError(
                        f"another sweep has used core {core} of a worker's host for "
                        f"{_RESERVE_TIMEOUT:g} s"
                    )
                time.sleep(_RESERVE_INTERVAL)
        yield


def _bound(name: socket.socket, core: int) -> bool:
    try:
        name.bind(f"\0vhost-emu-sweep-core-{core}")
    except OSError:
        return False
    return True
