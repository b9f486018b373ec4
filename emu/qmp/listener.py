"""A monitor at a path, as QEMU's ``-qmp unix:PATH,server=on,wait=off``: one client at a time."""

from __future__ import annotations

import os
import select
import threading
from typing import TYPE_CHECKING

from emu.errors import PreflightError
from emu.qmp.server import MonitorServer
from vhost_user import unix_socket

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping
    from pathlib import Path

    from emu.qmp.protocol import JsonObject
    from emu.qmp.server import Handler


class MonitorListener:
    """Listens from its construction on, and serves clients from `start` on.

    A client that connects before `start` is served then. The VM outlives its clients: when one
    disconnects, the next is served.

    Args:
        path: of the socket; a stale one is replaced, one in use is an error.
        commands: handlers by the command's name.

    Attributes:
        over_fd: becomes readable after a client's ``quit``, or when the monitor has failed.
        failure: the exception that the monitor failed with, which is a bug; None otherwise.

    Raises:
        PreflightError: no socket can be made there; the text has the reason.
    """

    def __init__(self, path: Path, commands: Mapping[str, Handler]) -> None:
        self.failure: BaseException | None = None
        self._commands = commands
        self._listener = _listen(path)
        self.over_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._lock = threading.Lock()
        self._closed = False
        self._server: MonitorServer | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread that serves clients."""
        self._thread = threading.Thread(target=self._run, name="monitors", daemon=True)
        self._thread.start()

    def emit(self, name: str, data: JsonObject) -> None:
        """Send an event to the client, if there is one."""
        server = self._server
        if server is not None:
            server.emit(name, data)

    def close(self) -> None:
        """Disconnect the client and stop listening. Returns when no command is being executed."""
        with self._lock:
            self._closed = True
            if self._server is not None:
                self._server.hang_up()
        os.eventfd_write(self._wake_fd, 1)
        if self._thread is not None:
            self._thread.join()
        self._listener.close()
        os.close(self._wake_fd)
        os.close(self.over_fd)

    def _run(self) -> None:
        try:
            while not self._serve_next():
                pass
        except BaseException as error:  # noqa: BLE001  the waiting thread raises it
            self.failure = error
        os.eventfd_write(self.over_fd, 1)

    def _serve_next(self) -> bool:
        """Serve one client; returns whether that was the last one."""
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        poll.register(self._wake_fd, select.POLLIN)
        poll.poll()
        with self._lock:
            if self._closed:
                return True
            client, _ = self._listener.accept()
            server = self._server = MonitorServer(client, self._commands, alone=False)
        try:
            server.serve()
        finally:
            with self._lock:
                self._server = None
            server.close()
        return server.quit_received


def _listen(path: Path) -> socket.socket:
    try:
        listener = unix_socket.bind(str(path))
        listener.listen(4)
    except OSError as error:
        raise PreflightError(f"--qmp {path}: {error.strerror or error}") from None
    return listener
