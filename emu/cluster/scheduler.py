"""Tasks of a command on the workers of a dask.distributed scheduler."""

from __future__ import annotations

import logging
import os
import queue
import re
import threading
import time
import uuid
import warnings
from collections import deque
from contextlib import ExitStack, contextmanager, suppress
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from emu.cluster.worker import (
    CORES_VARIABLE,
    TIMING,
    Job,
    Output,
    Task,
    WorkerError,
    end_tasks,
    run_task,
)
from emu.errors import EmuError, OptionError
from vhost_user.one_line import one_line
from vhost_user.temporary_directory import TemporaryDirectory

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from distributed import Client, Future, SpecCluster

    from emu.orchestrator.signals import SignalWatcher
    from emu.report.progress import Progress

LOCAL = "local"
_ADDRESS = re.compile(r"(tcp|tls)://(\[[0-9a-fA-F:.]+\]|[^\s:/\[\]]+):([0-9]{1,5})")
_EXTRA = "pip install 'vhost-emu[cluster]'"
#: Seconds until a scheduler answers, and until it has a worker that can run a task.
_CONNECT_TIMEOUT, _WORKER_TIMEOUT = 10.0, 30.0
#: Seconds for the tasks to end in order, and for the connections to be closed.
_END_TIMEOUT, _CLOSE_TIMEOUT = 12.0, 5.0
#: Seconds between two looks at signals and at the scheduler.
_TICK = 0.5
_PREFIX = "emu-cluster-"
#: Settings of dask: no HTTP server answers anything.
_SETTINGS = {
    "distributed.comm.timeouts.connect": f"{_CONNECT_TIMEOUT:g}s",
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
}
#: A worker of `LOCAL` is not in the terminal's process group: Ctrl-C is for the command alone.
_PRELOAD = "import os\nos.setpgid(0, 0)\n"


def check_scheduler(scheduler: str, workers: int | None) -> None:
    """Check the values of ``--scheduler`` and ``--workers``.

    Raises:
        OptionError: one is invalid, or dask.distributed is missing.
    """
    if scheduler != LOCAL:
        match = _ADDRESS.fullmatch(scheduler)
        if match is None or not 0 < int(match[3]) < 1 << 16:
            raise OptionError(
                f"--scheduler {scheduler!r}: write {LOCAL}, or an address such as "
                "tcp://127.0.0.1:8786"
            )
        if workers is not None:
            raise OptionError(f"--workers goes with --scheduler {LOCAL}: other workers are yours")
    cores = len(os.sched_getaffinity(0))
    if workers is not None and workers > cores:
        raise OptionError(f"--workers {workers}: each needs a core, and there are {cores}")
    for module, extra in (("distributed", ""), ("cryptography", " local")):
        if find_spec(module) is None and extra in ("", f" {scheduler}"):
            raise OptionError(f"--scheduler{extra} needs {module}: {_EXTRA}")


def cores_of(workers: int | None) -> list[list[int]]:
    """The cores of each worker of `LOCAL`: equal parts of those that this process may use.

    Args:
        workers: their number; by default one for each two cores.
    """
    cores = sorted(os.sched_getaffinity(0))
    count = workers or max(1, len(cores) // 2)
    bounds = [len(cores) * part // count for part in range(count + 1)]
    return [cores[bounds[part] : bounds[part + 1]] for part in range(count)]


def run_on_workers(
    scheduler: str,
    workers: int | None,
    tasks: Sequence[Task],
    *,
    watcher: SignalWatcher,
    progress: Progress,
) -> Generator[tuple[int, Output], None, None]:
    """The outputs of tasks with their numbers, in the order in which they are finished.

    Closing the iterator ends the tasks that run, and the workers of `LOCAL`.

    Args:
        scheduler: `LOCAL`, or the address of a scheduler.
        workers: number of the workers of `LOCAL`, see `cores_of`.
        tasks: what is to be run.
        watcher: of signals, which end the command.
        progress: shows which tasks run.

    Raises:
        SignalError: the user has ended the command.
        EmuError: the scheduler or its workers cannot run the tasks.
    """
    if not tasks:
        return
    with ExitStack() as stack:
        stack.enter_context(_quiet())
        progress.step(f"connect: --scheduler {scheduler}")
        client = stack.enter_context(_connected(scheduler, workers, watcher))
        watcher.check()
        yield from _Command(client, scheduler, watcher, progress).run(tasks)


@contextmanager
def _quiet() -> Iterator[None]:
    """No log lines and warnings of dask: an error is one line of this program."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.disable(before)


@contextmanager
def _connected(scheduler: str, workers: int | None, watcher: SignalWatcher) -> Iterator[Client]:
    import dask

    with ExitStack() as stack:
        stack.enter_context(dask.config.set(_SETTINGS))
        try:
            if scheduler == LOCAL:
                cluster = stack.enter_context(_local(cores_of(workers)))
                client = _client(watcher, cluster, security=cluster.security)
            else:
                client = _client(watcher, scheduler)
        except EmuError:
            raise
        except Exception as error:  # of many kinds, by the transport
            raise EmuError(f"--scheduler {scheduler}: {_reason(error)}") from error
        stack.callback(_close, client)
        yield client


def _client(watcher: SignalWatcher, address: object, **options: object) -> Client:
    """A client that is connected; a signal ends the wait for the scheduler.

    The client's own time-out does not cover a peer that accepts and sends nothing.

    Raises:
        SignalError: a signal arrived.
        TimeoutError: nothing answers as a scheduler.
    """
    from distributed import Client

    made: queue.SimpleQueue[Client | Exception] = queue.SimpleQueue()

    def connect() -> None:
        try:
            made.put(Client(address, timeout=_CONNECT_TIMEOUT, set_as_default=False, **options))
        except Exception as error:  # noqa: BLE001  raised below
            made.put(error)

    threading.Thread(target=connect, name="connect", daemon=True).start()
    deadline = time.monotonic() + _CONNECT_TIMEOUT + _TICK
    while time.monotonic() < deadline:
        watcher.check()
        with suppress(queue.Empty):
            found = made.get(timeout=_TICK)
            if isinstance(found, Exception):
                raise found
            return found
    raise TimeoutError(f"nothing has answered as a scheduler within {_CONNECT_TIMEOUT:g} s")


@contextmanager
def _local(cores: Sequence[Sequence[int]]) -> Iterator[SpecCluster]:
    """A scheduler in this process, and a process for each worker, on loopback.

    A scheduler runs any function that a client sends. So the connections have TLS with
    certificates that are made here: other users of the host cannot connect.
    """
    import dask
    from distributed import Nanny, Scheduler, SpecCluster
    from distributed.security import Security

    security = Security.temporary()
    common = {
        "host": "127.0.0.1",
        "protocol": "tls://",
        "security": security,
        "dashboard_address": "127.0.0.1:0",
    }
    with (
        TemporaryDirectory(_PREFIX) as directory,
        dask.config.set({"temporary-directory": str(directory)}),
    ):
        worker = {
            **common,
            "dashboard": False,
            "nthreads": 1,
            "resources": {TIMING: 1},
            "memory_limit": None,  # the memory is that of other processes
            "preload": [_PRELOAD],
            "silence_logs": logging.CRITICAL,
        }
        cluster = SpecCluster(
            scheduler={
                "cls": Scheduler,
                "options": {**common, "port": 0, "dashboard": False, "allowed_failures": 0},
            },
            workers={
                number: {
                    "cls": Nanny,
                    "options": {**worker, "env": {CORES_VARIABLE: ",".join(map(str, part))}},
                }
                for number, part in enumerate(cores)
            },
            security=security,
            silence_logs=logging.CRITICAL,
        )
        try:
            yield cluster
        finally:
            with suppress(Exception):  # a worker that does not end is killed
                cluster.close(timeout=_CLOSE_TIMEOUT)


def _close(client: Client) -> None:
    with suppress(Exception):  # whatever the scheduler does, this command ends
        client.close(timeout=_CLOSE_TIMEOUT)


def _reason(error: BaseException) -> str:
    return one_line(str(error) or type(error).__name__, 300)


class _Command:
    """The tasks of one command on a scheduler."""

    def __init__(
        self, client: Client, scheduler: str, watcher: SignalWatcher, progress: Progress
    ) -> None:
        self._client = client
        self._scheduler = scheduler
        self._watcher = watcher
        self._progress = progress
        self._name = uuid.uuid4().hex
        self._running: dict[Future[Any], tuple[int, Task]] = {}
        self._workers = 1
        self._finished: queue.SimpleQueue[Future[Any]] = queue.SimpleQueue()
        self._idle_since: float | None = None
        self._id = str(client.scheduler_info()["id"])
        self._look()

    def run(self, tasks: Sequence[Task]) -> Iterator[tuple[int, Output]]:
        """See `run_on_workers`."""
        waiting = deque(enumerate(tasks))
        try:
            while waiting or self._running:
                # Not more: those that wait for a worker that ends would be lost with it.
                while waiting and len(self._running) < self._workers:
                    self._submit(*waiting.popleft())
                yield from self._next()
        finally:
            if self._running:
                self._end()

    def _submit(self, number: int, task: Task) -> None:
        future = self._client.submit(
            run_task,
            Job(self._name, self._id, task, version("vhost-emu")),
            key=f"vhost-emu-{number}-{self._name}",
            resources={TIMING: 1},
            pure=False,
        )
        future.add_done_callback(self._finished.put)
        self._running[future] = (number, task)
        self._progress.step(f"run: {'; '.join(each.label for _, each in self._running.values())}")

    def _next(self) -> Iterator[tuple[int, Output]]:
        """The next finished task, if there is one within a tick."""
        try:
            future = self._finished.get(timeout=_TICK)
        except queue.Empty:
            self._watcher.check()
            self._look()
            return
        self._watcher.check()
        output = self._output_of(future)
        yield self._running.pop(future)[0], output
        self._look()

    def _output_of(self, future: Future[Any]) -> Output:
        from distributed.client import FutureCancelledError
        from distributed.scheduler import KilledWorker

        try:
            output: Output = future.result(timeout=_CONNECT_TIMEOUT)
        except KilledWorker:
            return Output(None, failure="the worker that ran it has ended")
        except WorkerError as error:
            raise self._error(str(error)) from error
        except (FutureCancelledError, TimeoutError, OSError) as error:
            raise self._error("the scheduler has ended") from error
        except ModuleNotFoundError as error:
            raise self._error(
                f"a worker has another installation of vhost-emu: {_reason(error)}"
            ) from error
        except Exception as error:  # noqa: BLE001  of the worker, of any kind
            return Output(None, failure=f"its worker: {type(error).__name__}: {_reason(error)}")
        return output

    def _look(self) -> None:
        """Check that the scheduler and a worker are there.

        Raises:
            EmuError: one is not.
        """
        if self._client.status != "running":
            raise self._error("the scheduler has ended")
        try:
            assigned = {key for keys in self._client.processing().values() for key in keys}
            self._workers = max(1, len(self._client.nthreads()))
        except Exception as error:  # of many kinds, by the transport
            raise self._error("the scheduler has ended") from error
        idle = assigned.isdisjoint(future.key for future in self._running)
        if not self._running or not idle or not self._finished.empty():
            self._idle_since = None
            return
        now = time.monotonic()
        if self._idle_since is None:
            self._idle_since = now
            self._progress.detail(f"wait for a worker with the resource {TIMING}=1")
        if now - self._idle_since > _WORKER_TIMEOUT:
            raise self._error(
                f"it has no worker with the resource {TIMING}: start one on each host with "
                f"`dask worker ADDRESS --nthreads 1 --resources {TIMING}=1`"
            )

    def _end(self) -> None:
        """End the tasks that run, in order, within `_END_TIMEOUT`."""

        def end() -> None:
            with suppress(Exception):  # the scheduler may be what has ended
                self._client.cancel(list(self._running), force=True)
                self._client.run(end_tasks, self._name, on_error="ignore")

        thread = threading.Thread(target=end, name="end-tasks", daemon=True)
        thread.start()
        thread.join(_END_TIMEOUT)

    def _error(self, text: str) -> EmuError:
        return EmuError(f"--scheduler {self._scheduler}: {text}")
