"""A network namespace that lives as long as a test's descriptors."""
# ruff: noqa: D102 - the names say what they are about

from __future__ import annotations

import ctypes
import os
import socket
import threading
from typing import TYPE_CHECKING, TypeVar

from backends.tap import DEVICE
from tests.timeouts import TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
CLONE_NEWNET = 0x40000000


class Namespace:
    """A thread in a network namespace of its own, which runs functions there."""

    def __init__(self) -> None:
        self._jobs: list[Callable[[], None]] = []
        self._ready = threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.refusal: str | None = None
        entered = threading.Event()
        self._jobs.append(entered.set)
        self._thread.start()
        self._ready.release()
        assert entered.wait(TIMEOUT)

    def _run(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(CLONE_NEWNET):
            self.refusal = f"no network namespace: {os.strerror(ctypes.get_errno())}"
        elif not os.access(DEVICE, os.R_OK | os.W_OK):
            self.refusal = f"{DEVICE} cannot be opened"
        while True:
            self._ready.acquire()
            job = self._jobs.pop(0)
            job()
            if job == self._end:
                return

    def _end(self) -> None:
        """The last job."""

    def do(self, function: Callable[[], T]) -> T:
        results: list[T] = []
        errors: list[Exception] = []
        done = threading.Event()

        def job() -> None:
            try:
                results.append(function())
            except Exception as error:  # noqa: BLE001 - it is raised in the test's own thread
                errors.append(error)
            done.set()

        self._jobs.append(job)
        self._ready.release()
        assert done.wait(TIMEOUT)
        if errors:
            raise errors[0]
        return results[0]

    def close(self) -> None:
        self._jobs.append(self._end)
        self._ready.release()
        self._thread.join(TIMEOUT)


def packet_socket(interface: str) -> socket.socket:
    """Sends and receives the frames of an interface, which is in the namespace of the thread."""
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    sock.bind((interface, 3))
    sock.settimeout(TIMEOUT)
    return sock
