"""Where a migration stream begins and ends: ``unix:PATH`` or ``tcp:ADDRESS:PORT``."""

from __future__ import annotations

import os
import select
import socket
from contextlib import suppress

from emu.errors import MigrationError
from emu.migration.stream import MigrationStream


def _parse(uri: str) -> tuple[socket.AddressFamily, str | tuple[str, int]]:
    scheme, _, rest = uri.partition(":")
    if scheme == "unix" and rest:
        return socket.AF_UNIX, rest
    if scheme == "tcp":
        host, _, port = rest.rpartition(":")
        if host and port.isdigit() and int(port) < 1 << 16:
            return socket.AF_INET, (host, int(port))
    raise MigrationError("connect", f"{uri!r} is no address: write unix:PATH or tcp:ADDRESS:PORT")


def connect(uri: str, *, deadline: float) -> MigrationStream:
    """Connect to a destination that listens.

    Raises:
        MigrationError: it does not, or the address is none.
    """
    family, address = _parse(uri)
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.settimeout(deadline)
    try:
        sock.connect(address)
    except OSError as error:
        sock.close()
        raise MigrationError("connect", f"{uri}: {error.strerror or error}") from None
    return MigrationStream(sock, deadline=deadline)


class Listener:
    """A destination's socket, for one source.

    Args:
        uri: where to listen; port 0 takes a free one.

    Attributes:
        uri: what the source is to be given.

    Raises:
        MigrationError: it is no address, or in use.
    """

    def __init__(self, uri: str) -> None:
        family, address = _parse(uri)
        self._path = address if isinstance(address, str) else ""
        self._sock = socket.socket(family, socket.SOCK_STREAM)
        self._wake, self._cancel = os.pipe()
        try:
            if family == socket.AF_INET:
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._sock.bind(address)
            self._sock.listen(1)
        except OSError as error:
            self._path = ""
            self.close()
            raise MigrationError("listen", f"{uri}: {error.strerror or error}") from None
        bound = self._sock.getsockname()
        self.uri = uri if family == socket.AF_UNIX else f"tcp:{bound[0]}:{bound[1]}"

    def accept(self, *, deadline: float) -> MigrationStream | None:
        """The source's connection, or None when `cancel` was called instead."""
        poll = select.poll()
        for fd in (self._sock.fileno(), self._wake):
            poll.register(fd, select.POLLIN)
        if self._wake in [fd for fd, _ in poll.poll()]:
            return None
        sock, _ = self._sock.accept()
        return MigrationStream(sock, deadline=deadline)

    def cancel(self) -> bool:
        """From another thread: nobody will come. False: somebody has come."""
        if self._sock.fileno() < 0:
            return False
        with suppress(OSError):  # it may have been closed just now
            os.write(self._cancel, b"x")
        return True

    def close(self) -> None:
        """Close the socket and remove its path. May be called twice."""
        if self._sock.fileno() < 0:
            return
        self._sock.close()
        os.close(self._wake)
        os.close(self._cancel)
        if self._path:
            with suppress(FileNotFoundError):
                os.unlink(self._path)  # noqa: PTH108  a socket's name, not a file's
