"""Unix sockets with a path: one in use is never taken from its process, a stale one is replaced."""

from __future__ import annotations

import errno
import os
import socket
import stat
from pathlib import Path


class PathTakenError(OSError):
    """The path is in use, or is not a socket; ``strerror`` has the reason."""


def bind(path: str, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
    """A unix socket that is bound to a path.

    Args:
        path: where; a socket file there on which no process listens is replaced.
        kind: SOCK_STREAM or SOCK_DGRAM.

    Raises:
        PathTakenError: a process listens there, or it is not a socket.
        OSError: the path is too long, or there can be no socket.
    """
    _clear(path, kind)
    sock = socket.socket(socket.AF_UNIX, kind | socket.SOCK_CLOEXEC)
    try:
        sock.bind(path)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:  # another process was faster
            raise _taken(errno.EADDRINUSE, "is in use", path) from None
        raise
    return sock


def _clear(path: str, kind: socket.SocketKind) -> None:
    """Remove a socket file that a killed process has left."""
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        return  # not there; bind reports any other error
    if not stat.S_ISSOCK(mode):
        raise _taken(errno.EEXIST, "exists and is not a socket", path)
    with socket.socket(socket.AF_UNIX, kind) as probe:
        probe.settimeout(0)
        code = probe.connect_ex(path)
    if code != errno.ECONNREFUSED:
        raise _taken(errno.EADDRINUSE, "is in use", path)
    try:
        Path(path).unlink(missing_ok=True)
    except OSError as error:
        raise _taken(errno.EADDRINUSE, f"cannot be replaced: {error.strerror}", path) from error


def _taken(code: int, text: str, path: str) -> PathTakenError:
    return PathTakenError(code, text, path)
