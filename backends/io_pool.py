"""A few threads for calls that may block: flushes, discards, reads that miss the page cache."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue

Job = Callable[[], object]
#: Seconds that `IoPool.close` waits for each thread.
JOIN_TIMEOUT = 5.0


class IoPool:
    """Threads that run jobs in the order of submission; started with the first job."""

    def __init__(self, threads: int = 4) -> None:
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"io-{n}", daemon=True) for n in range(threads)
        ]
        self._lock = threading.Lock()
        self._started = False

    def submit(self, job: Job) -> None:
        """From any thread: have a thread of the pool run the job, which must not raise."""
        if not self._started:
            self._start()
        self._jobs.put(job)

    def close(self) -> None:
        """Run the jobs that were submitted, and end the threads."""
        if self._started:
            for _ in self._threads:
                self._jobs.put(None)
            for thread in self._threads:
                thread.join(JOIN_TIMEOUT)

    def _start(self) -> None:
        with self._lock:
            if not self._started:
                for thread in self._threads:
                    thread.start()
                self._started = True

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
            # It holds a request's buffers, and with them guest memory that may be unmapped.
            del job
