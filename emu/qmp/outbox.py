"""What a monitor has to send to one client: bounded, so that no client can delay the VM."""

from __future__ import annotations

import socket
import struct
import threading
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

#: Bytes that may wait for a client. A longer message is sent if no other one waits.
MAX_QUEUED = 8 << 20
#: Seconds for which one system call may wait for a client that does not read.
SEND_TIMEOUT = 30


class Outbox:
    """Sends messages to one client in their order.

    The thread that has a message sends what the socket takes at once. A thread of the outbox sends
    the rest; it starts when there is one. So only the sender of a response, which
    that client has requested, waits for the client.

    Args:
        sock: connected; `hang_up` shuts it down, and its owner closes it.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", SEND_TIMEOUT, 0))
        self._queue: deque[memoryview] = deque()
        self._queued = 0
        self._failed = False
        self._closed = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def post(self, data: bytes) -> None:
        """Send an event; never waits. A client with too many unread ones is disconnected."""
        with self._changed:
            if self._queued and self._queued + len(data) > MAX_QUEUED:
                self._fail()
            self._put(data)

    def respond(self, data: bytes, *, sending: Callable[[], object] = bool) -> None:
        """Send a response; waits while too much is unread.

        Args:
            data: the response.
            sending: called before it is sent; no event is posted between the two.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: not self._queued or self._queued + len(data) <= MAX_QUEUED or self._failed
            )
            sending()
            self._put(data)

    def _put(self, data: bytes) -> None:
        """Send or queue a message; the caller holds the lock."""
        rest = memoryview(data)
        if self._failed or self._closed:
            return
        if not self._queued:
            try:
                rest = rest[self._sock.send(rest, socket.MSG_DONTWAIT) :]
            except BlockingIOError:
                pass
            except OSError:
                self._fail()
                return
        if not rest:
            return
        self._queue.append(rest)
        self._queued += len(rest)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="monitor-writer", daemon=True)
            self._thread.start()
        self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._closed or self._failed)
                if self._failed or not self._queue:
                    return
                data = self._queue[0]
            try:
                sent = self._sock.send(data)
            except OSError:  # the client has disconnected, or does not read
                with self._changed:
                    self._fail()
                return
            with self._changed:
                self._advance(sent)

    def _advance(self, sent: int) -> None:
        """So many bytes of the first message were sent; the caller holds the lock."""
        if self._failed:
            return  # what was queued has been dropped
        self._queued -= sent
        rest = self._queue.popleft()[sent:]
        if rest:
            self._queue.appendleft(rest)
        self._changed.notify_all()

    def _fail(self) -> None:
        """Drop what is queued and disconnect the client; the caller holds the lock."""
        self._failed = True
        self._queue.clear()
        self._queued = 0
        self._changed.notify_all()
        self.hang_up()

    def hang_up(self) -> None:
        """Disconnect: threads that read from or write to the socket return. From any thread."""
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)  # wakes the reader, which a close would not

    def close(self, timeout: float) -> None:
        """Send what is queued, within ``timeout`` seconds, and disconnect."""
        with self._changed:
            self._changed.wait_for(lambda: not self._queued or self._failed, timeout)
            self._closed = True
            self._changed.notify_all()
        self.hang_up()
        if self._thread is not None:
            self._thread.join()
