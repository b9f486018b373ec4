"""The threads of one device for calls that may block: its writes, flushes, and reads from a disk.

Each device has threads of its own: a disk that hangs keeps all of them busy, and no other device.
"""

from __future__ import annotations

import logging
import threading
import time
from queue import SimpleQueue
from typing import TYPE_CHECKING, NamedTuple

from backends.isolation import describe
from backends.limits import IO_THREADS

if TYPE_CHECKING:
    from collections.abc import Callable

#: Seconds that `IoPool.close` waits for the threads.
JOIN_TIMEOUT = 5.0
log = logging.getLogger("backends")


class Job(NamedTuple):
    """What a thread of the pool calls.

    Attributes:
        run: the call.
        failed: is called with what it raises.
    """

    run: Callable[[], object]
    failed: Callable[[Exception], object]


class IoPool:
    """Threads that run jobs in the order of submission; started when there is a job for them."""

    def __init__(self, threads: int = IO_THREADS) -> None:
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._most = threads
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        # Jobs that were submitted and have not ended: there is a thread for each, up to the most.
        self._unfinished = 0

    def submit(self, run: Callable[[], object], failed: Callable[[Exception], object]) -> None:
        """From any thread: have a thread of the pool call ``run()``, and ``failed()`` if it raises.

        Raises:
            RuntimeError: the system has no thread for it.
        """
        with self._lock:
            if self._unfinished >= len(self._threads) < self._most:
                self._start()
            self._unfinished += 1
        self._jobs.put(Job(run, failed))

    def close(self) -> None:
        """Run the jobs that were submitted, and end the threads; one that hangs is left alone."""
        for _ in self._threads:
            self._jobs.put(None)
        end = time.monotonic() + JOIN_TIMEOUT
        for thread in self._threads:
            thread.join(max(0, end - time.monotonic()))

    def _start(self) -> None:
        name = f"io-{len(self._threads)}"
        thread = threading.Thread(target=self._work, name=name, daemon=True)
        thread.start()
        self._threads.append(thread)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job.run()
            except Exception as error:  # noqa: BLE001  the thread goes on with the next job
                _fail(job, error)
            # It holds a request's buffers, and with them guest memory that may be unmapped.
            del job
            with self._lock:
                self._unfinished -= 1


def _fail(job: Job, error: Exception) -> None:
    try:
        job.failed(error)
    except Exception as another:  # noqa: BLE001  it was the last resort
        log.critical("a request is lost: %s", describe(another))
