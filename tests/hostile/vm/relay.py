"""A back-end that is a real one behind a relay, which changes one reply."""

from __future__ import annotations

import array
import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from vhost_user.codec import HEADER
from vhost_user.unix_socket import bind

if TYPE_CHECKING:
    from collections.abc import Callable

_FD = array.array("i").itemsize
_READ = 1 << 16


class Change(NamedTuple):
    """What becomes of a reply: the first one to a message.

    Attributes:
        number: of the message.
        make: the bytes that are sent instead; None to close the connection.
    """

    number: int
    make: Callable[[bytes], bytes | None]


class Relay:
    """Listens at a path, and relays each connection to the back-end at another one.

    Attributes:
        changed: set when the change has been applied.
    """

    def __init__(self, path: str, back_end: str) -> None:
        self.changed = threading.Event()
        self._back_end = back_end
        self._change: Change | None = None
        self._listener = bind(path)
        self._listener.listen(8)
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def set_change(self, change: Change | None) -> None:
        """Change a reply of the next connection, which the front-end makes now."""
        self.changed.clear()
        self._change = change
        self.cut()

    def cut(self) -> None:
        """Close the connections."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            _shut(*pair)

    def close(self) -> None:
        """Stop listening."""
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                front, _ = self._listener.accept()
                back = socket.socket(socket.AF_UNIX)
                back.connect(self._back_end)
                with self._lock:
                    self._pairs.append((front, back))
                threading.Thread(target=self._requests, args=(front, back), daemon=True).start()
                threading.Thread(target=self._replies, args=(back, front), daemon=True).start()

    @staticmethod
    def _requests(front: socket.socket, back: socket.socket) -> None:
        with suppress(OSError):
            while _forward(front, back):
                pass
        _shut(front, back)

    def _replies(self, back: socket.socket, front: socket.socket) -> None:
        with suppress(OSError):
            while self._reply(back, front):
                pass
        _shut(front, back)

    def _reply(self, back: socket.socket, front: socket.socket) -> bool:
        header, fds = _receive(back, HEADER.size)
        if len(header) < HEADER.size:
            return False
        number, _, size = HEADER.unpack(header)
        data: bytes | None = header + (_receive(back, size)[0] if size else b"")
        change = self._change
        if change is not None and change.number == number:
            self._change = None
            data = change.make(header + data[len(header) :] if data else b"")
            self.changed.set()
        if data is None:
            return False
        _send(front, data, fds)
        return True


def _forward(source: socket.socket, target: socket.socket) -> bool:
    data, ancillary, _, _ = source.recvmsg(_READ, socket.CMSG_SPACE(32 * _FD))
    fds = _fds(ancillary)
    if data:
        _send(target, data, fds)
    return bool(data)


def _receive(sock: socket.socket, size: int) -> tuple[bytes, list[int]]:
    data, fds = b"", []
    while len(data) < size:
        part, ancillary, _, _ = sock.recvmsg(size - len(data), socket.CMSG_SPACE(32 * _FD))
        fds += _fds(ancillary)
        if not part:
            break
        data += part
    return data, fds


def _fds(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    fds = array.array("i")
    for _, _, content in ancillary:
        fds.frombytes(content[: len(content) - len(content) % _FD])
    return list(fds)


def _send(sock: socket.socket, data: bytes, fds: list[int]) -> None:
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    try:
        sent = sock.sendmsg([data], ancillary)
        sock.sendall(data[sent:])
    finally:
        for fd in fds:
            socket.close(fd)


def _shut(*sockets: socket.socket) -> None:
    for sock in sockets:
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
