"""The address of a destination: ``unix:PATH`` or ``tcp:ADDRESS:PORT``.

An IPv6 address is in brackets: ``tcp:[::1]:4444``.
"""

from __future__ import annotations

import ipaddress
import os
import re
import select
import socket
from contextlib import suppress
from dataclasses import dataclass

from emu.errors import MigrationError, Operation
from emu.migration.stream import MigrationStream
from emu.migration.tls import Credentials, secure
from vhost_user import unix_socket

#: Bytes of a path that a unix socket can have (sockaddr_un, less the terminating 0).
MAX_PATH = 107
#: Instead of an address: QMP's migrate-incoming has it.
DEFER = "defer"
_ADDRESS = re.compile(
    r"unix:(?P<path>[^\0\ud800-\udc7f\udd00-\udfff]+)"
    r"|tcp:(?:\[(?P<six>[0-9A-Fa-f:.]+(?:%[A-Za-z0-9_.-]{1,15})?)\]|(?P<host>[^\s:\[\]\0]+)):(?P<port>[0-9]{1,5})",
    re.DOTALL,
)


def parse(uri: str) -> tuple[socket.AddressFamily, str | tuple[str, int]]:
    """The family of an address, and its path or its host and port.

    Raises:
        MigrationError: the address is invalid.
    """
    match = _ADDRESS.fullmatch(uri)
    if match is None:
        raise _invalid(uri, "write unix:PATH or tcp:ADDRESS:PORT")
    if match["path"] is not None:
        if len(os.fsencode(match["path"])) > MAX_PATH:
            raise _invalid(uri, f"a path of more than {MAX_PATH} bytes")
        return socket.AF_UNIX, match["path"]
    port = int(match["port"])
    if port >= 1 << 16:
        raise _invalid(uri, f"port {port} is not below {1 << 16}")
    family = socket.AF_INET if match["six"] is None else socket.AF_INET6
    try:
        # getaddrinfo would do the same, but its errors are not OSErrors.
        host = (match["host"] or match["six"]).encode("idna").decode()
    except UnicodeError as error:
        raise _invalid(uri, f"its host is not a name: {error.__cause__ or error}") from None
    return family, (host, port)


def _invalid(uri: str, why: str) -> MigrationError:
    return MigrationError(Operation.CONNECT, f"{uri!r} is not an address: {why}")


def is_local(uri: str) -> bool:
    """Whether an address is on this host: a unix socket, or loopback.

    Raises:
        MigrationError: the address is invalid, or the host name is unknown.
    """
    family, address = parse(uri)
    if isinstance(address, str):
        return True
    try:
        found = socket.getaddrinfo(*address, family=family, type=socket.SOCK_STREAM)
    except OSError as error:
        raise MigrationError(Operation.CONNECT, f"{uri}: {error.strerror}") from None
    return all(ipaddress.ip_address(entry[4][0]).is_loopback for entry in found)


def probe(uri: str, *, timeout: float) -> None:
    """Check that a destination listens, by a connection that is closed again at once.

    Raises:
        MigrationError: no destination listens, or the address is invalid.
    """
    family, address = parse(uri)
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.settimeout(timeout)
        try:
            sock.connect(address)
        except OSError as error:
            raise MigrationError(Operation.CONNECT, f"{uri}: {error.strerror or error}") from None


def connect(uri: str, *, timeout: float, credentials: Credentials | None = None) -> MigrationStream:
    """Connect to a destination; with credentials, by TLS.

    Raises:
        MigrationError: no destination listens, its certificate is not accepted, or the address is
            invalid.
    """
    family, address = parse(uri)
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.settimeout(timeout)
    try:
        sock.connect(address)
    except OSError as error:
        sock.close()
        raise MigrationError(Operation.CONNECT, f"{uri}: {error.strerror or error}") from None
    if credentials is not None:
        host = "" if isinstance(address, str) else address[0]
        sock = secure(sock, credentials, server=False, host=host, timeout=timeout)
    return MigrationStream(sock, timeout=timeout)


def _listen(family: socket.AddressFamily, address: str | tuple[str, int]) -> socket.socket:
    if isinstance(address, str):
        bound = unix_socket.bind(address)
        bound.listen()
        return bound
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen()
    except OSError:
        sock.close()
        raise
    return sock


class Listener:
    """A destination's listening socket, for one source.

    Args:
        uri: where to listen; port 0 selects a free port.
        credentials: for TLS; None for a plain stream.

    Attributes:
        uri: the address for the source, with the actual port.

    Raises:
        MigrationError: the address is invalid or in use.
    """

    def __init__(self, uri: str, credentials: Credentials | None = None) -> None:
        family, address = parse(uri)
        self._credentials = credentials
        self._accepted = False
        try:
            self._sock = _listen(family, address)
        except OSError as error:
            raise MigrationError(Operation.LISTEN, f"{uri}: {error.strerror or error}") from None
        self._wake, self._cancel = os.pipe()
        bound = self._sock.getsockname()
        host = f"[{bound[0]}]" if family == socket.AF_INET6 else bound[0]
        self.uri = uri if family == socket.AF_UNIX else f"tcp:{host}:{bound[1]}"

    def accept(
        self, *, timeout: float, connect_timeout: float | None = None
    ) -> MigrationStream | None:
        """The source's connection, or None if `cancel` was called first.

        Args:
            timeout: seconds for which one system call on it may wait.
            connect_timeout: seconds to wait for a connection; unlimited by default. A connection
                that is closed before a byte was sent on it does not count (`probe`).

        Raises:
            MigrationError: no source has connected, or its certificate is not accepted.
        """
        while True:
            ready = self._poll(self._sock, connect_timeout)
            if ready is None:
                return None
            if not ready:
                raise MigrationError(
                    Operation.LISTEN, f"no source has connected within {connect_timeout:g} s"
                )
            sock, _ = self._sock.accept()
            ready = self._poll(sock, timeout)
            if ready and _has_disconnected(sock):
                sock.close()  # a probe (`probe`), or another program
                continue
            if ready is None:
                sock.close()
                return None
            break
        self._accepted = True
        if self._credentials is not None:
            sock = secure(sock, self._credentials, server=True, host="", timeout=timeout)
        return MigrationStream(sock, timeout=timeout)

    def _poll(self, sock: socket.socket, timeout: float | None) -> bool | None:
        """Whether a socket becomes readable in time; None when `cancel` was called."""
        poll = select.poll()
        for fd in (sock.fileno(), self._wake):
            poll.register(fd, select.POLLIN)
        ready = [fd for fd, _ in poll.poll(None if timeout is None else timeout * 1000)]
        return None if self._wake in ready else bool(ready)

    def cancel(self) -> bool:
        """From another thread: end `accept`. False if a source has connected already."""
        if self._sock.fileno() < 0 or self._accepted:
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


def _has_disconnected(sock: socket.socket) -> bool:
    """Whether the other end of a readable socket has closed it, without having sent a byte."""
    try:
        return not sock.recv(1, socket.MSG_PEEK)
    except ConnectionError:  # as by SO_LINGER
        return True


@dataclass(frozen=True, slots=True)
class StreamSecurity:
    """How the stream of a migration between two emu processes is protected.

    Attributes:
        credentials: for TLS; None for a plain stream.
        insecure: a plain stream may leave this host.
    """

    credentials: Credentials | None = None
    insecure: bool = False

    @property
    def tls(self) -> list[str] | None:
        """The credentials as QMP's arguments have them."""
        return None if self.credentials is None else list(self.credentials)


@dataclass(frozen=True, slots=True)
class MigrationEndpoint:
    """The destination's address in a migration between two emu processes.

    Attributes:
        uri: where the destination listens; `DEFER` if QMP's migrate-incoming has it.
        security: of the stream.
    """

    uri: str
    security: StreamSecurity = StreamSecurity()

    @property
    def transport(self) -> str:
        """``unix`` or ``tcp``."""
        return self.uri.partition(":")[0]
