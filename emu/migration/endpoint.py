"""The address of a destination: ``unix:PATH`` or ``tcp:ADDRESS:PORT``.

An IPv6 address is in brackets: ``tcp:[::1]:4444``.
"""

from __future__ import annotations

import ipaddress
import os
import re
import select
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from emu.errors import MigrationError, Operation
from emu.migration.stream import MigrationStream
from emu.migration.tls import Credentials, secure
from vhost_user import unix_socket

if TYPE_CHECKING:
    from collections.abc import Iterable

#: An address as `socket.getaddrinfo` has it.
SocketAddress = tuple[Any, ...]
#: Bytes of a path that a unix socket can have (sockaddr_un, less the terminating 0).
MAX_PATH = 107
#: Seconds within which a host's name has to be resolved, if there is no other limit.
RESOLVE_TIMEOUT = 10.0
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


def is_local(uri: str, timeout: float = RESOLVE_TIMEOUT) -> bool:
    """Whether an address is on this host: a unix socket, or loopback.

    Args:
        uri: the address.
        timeout: seconds within which a host's name has to be resolved.

    Raises:
        MigrationError: the address is invalid, or the host name is unknown.
    """
    family, address = parse(uri)
    return isinstance(address, str) or _is_loopback(_resolve(uri, family, address, timeout))


def has_host_name(uri: str) -> bool:
    """Whether a name has to be resolved, which takes time.

    Raises:
        MigrationError: the address is invalid.
    """
    family, address = parse(uri)
    return not isinstance(address, str) and not _numeric(family, address)


def _is_loopback(found: Iterable[SocketAddress]) -> bool:
    return all(ipaddress.ip_address(address[0]).is_loopback for address in found)


def _numeric(family: socket.AddressFamily, address: tuple[str, int]) -> list[SocketAddress]:
    """The socket address of an IP address; none of a name."""
    try:
        return _look_up(family, address, socket.AI_NUMERICHOST)
    except OSError:
        return []


def _look_up(
    family: socket.AddressFamily, address: tuple[str, int], flags: int = 0
) -> list[SocketAddress]:
    found = socket.getaddrinfo(*address, family=family, type=socket.SOCK_STREAM, flags=flags)
    return [entry[4] for entry in found]


def _resolve(
    uri: str, family: socket.AddressFamily, address: tuple[str, int], timeout: float
) -> list[SocketAddress]:
    """The addresses of a host, at least one.

    Raises:
        MigrationError: its name is unknown, or was not resolved in time.
    """
    if found := _numeric(family, address):
        return found
    answers: SimpleQueue[list[SocketAddress] | OSError] = SimpleQueue()

    def ask() -> None:
        try:
            answers.put(_look_up(family, address))
        except OSError as error:
            answers.put(error)

    # getaddrinfo has no time limit. A thread that is late ends by itself, or with the process.
    threading.Thread(target=ask, name="resolver", daemon=True).start()
    try:
        answer = answers.get(timeout=timeout)
    except Empty:
        raise MigrationError(
            Operation.CONNECT, f"{uri}: the host's name was not resolved within {timeout:g} s"
        ) from None
    if isinstance(answer, OSError):
        raise MigrationError(Operation.CONNECT, f"{uri}: {answer.strerror}") from None
    return answer


def _connected(uri: str, timeout: float, *, loopback_only: bool = False) -> socket.socket:
    """A socket that is connected to a destination.

    Raises:
        MigrationError: no destination listens, the address is invalid, or not loopback.
    """
    family, address = parse(uri)
    target: str | SocketAddress = address
    if not isinstance(address, str):
        found = _resolve(uri, family, address, timeout)
        if loopback_only and not _is_loopback(found):
            raise MigrationError(Operation.CONNECT, f"{uri} is not loopback")
        target = found[0]
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.settimeout(timeout)
    try:
        sock.connect(target)
    except OSError as error:
        sock.close()
        raise MigrationError(Operation.CONNECT, f"{uri}: {error.strerror or error}") from None
    return sock


def probe(uri: str, *, timeout: float) -> None:
    """Check that a destination listens, by a connection that is closed again at once.

    Raises:
        MigrationError: no destination listens, or the address is invalid.
    """
    _connected(uri, timeout).close()


def connect(
    uri: str,
    *,
    timeout: float,
    credentials: Credentials | None = None,
    loopback_only: bool = False,
) -> MigrationStream:
    """Connect to a destination; with credentials, by TLS.

    Args:
        uri: its address.
        timeout: seconds to resolve its name, to connect, and for each later system call.
        credentials: for TLS; None for a plain stream.
        loopback_only: no other host may be connected to.

    Raises:
        MigrationError: no destination listens, its certificate is not accepted, or the address is
            invalid, or not loopback.
    """
    sock = _connected(uri, timeout, loopback_only=loopback_only)
    if credentials is not None:
        _family, address = parse(uri)
        host = "" if isinstance(address, str) else address[0]
        sock = secure(sock, credentials, server=False, host=host, timeout=timeout)
    return MigrationStream(sock, timeout=timeout)


def _listen(
    uri: str, family: socket.AddressFamily, address: str | tuple[str, int]
) -> socket.socket:
    if isinstance(address, str):
        bound = unix_socket.bind(address)
        bound.listen()
        return bound
    target = _resolve(uri, family, address, RESOLVE_TIMEOUT)[0]
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(target)
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
            self._sock = _listen(uri, family, address)
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
    def may_leave_host(self) -> bool:
        """Whether the stream may go to another host."""
        return self.credentials is not None or self.insecure

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
