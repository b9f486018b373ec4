"""A few threads for what may block: flushes, discards, reads of what is not in the page cache."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue

Job = Callable[[], object]
JOIN_DEADLINE = 5.0


class IoPool:
    """Threads that run jobs in the order they come. They start when the first job does."""

    def __init__(self, threads: int = 4) -> None:
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"io-{n}", daemon=True) for n in range(threads)
        ]
        self._lock = threading.Lock()
        self._started = False

    def submit(self, job: Job) -> None:
        """From any thread: have a thread of the pool run it. It must not raise."""
        if not self._started:
            self._start()
        self._jobs.put(job)

    def close(self) -> None:
        """Finish the jobs that were submitted and end the threads."""
        if self._started:
            for _ in self._threads:
                self._jobs.put(None)
            for thread in self._threads:
                thread.join(JOIN_DEADLINE)

    def _start(self) -> None:
        with self._lock:
            if not self._started:
                for thread in self._threads:
                    thread.start()
                self._started = True

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
            # It holds a request's buffers, and with them the memory of a guest that may go.
            del job
