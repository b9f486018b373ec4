"""A monitor at a path, as QEMU's ``-qmp unix:PATH,server=on,wait=off``, for several clients."""

from __future__ import annotations

import os
import select
import threading
import time
from typing import TYPE_CHECKING

from emu.errors import PreflightError
from emu.qmp.server import HANG_UP_TIMEOUT, MonitorServer
from vhost_user import unix_socket
from vhost_user.readiness import readable

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from emu.qmp.protocol import JsonObject
    from emu.qmp.server import Handler

#: Clients at once; a further one is disconnected.
MAX_CLIENTS = 32
#: Seconds until the next attempt to accept a client, if there are no descriptors for it.
ACCEPT_RETRY = 0.1


class MonitorListener:
    """Listens from its construction on, and serves clients from `start` on.

    A client that connects before `start` is served then. Each client negotiates for itself, and
    gets all events from then on. Commands of all clients are executed one after the other. The VM
    outlives its clients.

    Args:
        path: of the socket; a stale one is replaced, one in use is an error.
        commands: handlers by the command's name.
        executing: see `MonitorServer`; a lock of its own by default.
        ended: called in a thread of the listener when `over_fd` becomes readable, with `failure`.

    Attributes:
        over_fd: becomes readable after a client's ``quit``, or when the monitor has failed.
        failure: the exception that the monitor failed with, which is a bug; None otherwise.

    Raises:
        PreflightError: no socket can be made there; the text has the reason.
    """

    def __init__(
        self,
        path: Path,
        commands: Mapping[str, Handler],
        *,
        executing: threading.Lock | None = None,
        ended: Callable[[BaseException | None], object] = lambda _error: None,
    ) -> None:
        self.failure: BaseException | None = None
        self._ended = ended
        self._commands = commands
        self._executing = executing or threading.Lock()
        self._listener = _listen(path)
        self.over_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._lock = threading.Lock()
        self._closed = False
        # The thread of each client.
        self._servers: dict[MonitorServer, threading.Thread] = {}
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread that accepts clients."""
        self._thread = threading.Thread(target=self._accept_all, name="monitors", daemon=True)
        self._thread.start()

    def emit(self, name: str, data: JsonObject) -> None:
        """Send an event to all clients that have negotiated; waits for none of them."""
        with self._lock:
            servers = [*self._servers]
        for server in servers:
            server.emit(name, data)

    def close(self, timeout: float = HANG_UP_TIMEOUT) -> bool:
        """Disconnect the clients and stop listening.

        Args:
            timeout: seconds for the command that is being executed to end. Those that wait for it
                are not executed.

        Returns:
            False if it has not ended: its thread still uses the VM.
        """
        with self._lock:
            self._closed = True
            threads = [*self._servers.values()]
            for server in self._servers:
                server.hang_up()
        os.eventfd_write(self._wake_fd, 1)
        if self._thread is not None:
            self._thread.join()
        end = time.monotonic() + timeout
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))
        self._listener.close()
        os.close(self._wake_fd)
        os.close(self.over_fd)
        return not any(thread.is_alive() for thread in threads)

    def _accept_all(self) -> None:
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        poll.register(self._wake_fd, select.POLLIN)
        while True:
            poll.poll()
            with self._lock:
                if self._closed:
                    return
                accepted = self._accept()
            if not accepted:
                readable([self._wake_fd], ACCEPT_RETRY)

    def _accept(self) -> bool:
        """Serve the next client; False if it has to wait in the backlog: out of descriptors."""
        try:
            client, _ = self._listener.accept()
        except OSError:
            return False
        self._serve_client(client)
        return True

    def _serve_client(self, client: socket.socket) -> None:
        if len(self._servers) >= MAX_CLIENTS:
            client.close()
            return
        server = MonitorServer(client, self._commands, alone=False, executing=self._executing)
        thread = threading.Thread(
            target=self._serve, args=(server,), name="monitor-client", daemon=True
        )
        self._servers[server] = thread
        thread.start()

    def _serve(self, server: MonitorServer) -> None:
        try:
            server.serve()
        except BaseException as error:  # noqa: BLE001  the waiting thread raises it
            self.failure = error
        if server.quit_received:
            self.emit("SHUTDOWN", {"guest": False, "reason": "host-qmp-quit"})
        server.close()
        with self._lock:
            del self._servers[server]
            over = (server.quit_received or self.failure is not None) and not self._closed
            if over:
                os.eventfd_write(self.over_fd, 1)
        if over:
            self._ended(self.failure)


def _listen(path: Path) -> socket.socket:
    try:
        listener = unix_socket.bind(str(path))
        listener.listen(MAX_CLIENTS)
    except OSError as error:
        raise PreflightError(f"--qmp {path}: {error.strerror or error}") from None
    return listener
