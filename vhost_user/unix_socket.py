"""Unix sockets with a path: who may connect, and which path may be removed.

Every socket with a path is made here. Its file has mode 0600 from the moment at which it exists,
whatever the umask is. The socket of a process that exists is never replaced, and a path is removed
only while it is the file of the socket that was bound here.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import stat
import struct
from contextlib import suppress
from pathlib import Path

#: Device and inode: what distinguishes a file from all others that exist at the same time.
_Identity = tuple[int, int]
#: Flag of a socket that accepts connections in /proc/net/unix (__SO_ACCEPTCON, linux/net.h).
_LISTENS = 1 << 16
#: State of a socket there that is not connected (SS_UNCONNECTED, linux/net.h).
_UNCONNECTED = 1
_TABLE = Path("/proc/net/unix")
#: struct ucred of Linux: process, user and group.
_CREDENTIALS = struct.Struct("=3i")
#: Mode of the file of a socket: connecting needs write permission.
MODE = 0o600


class PathTakenError(OSError):
    """The path is in use, or is not a socket; ``strerror`` has the reason."""


class BoundSocket(socket.socket):
    """A unix socket with a path, which `close` removes if it is still this socket's.

    Another program may have put its own socket there meanwhile; that one stays.
    """

    _path = ""
    _identity: _Identity | None = None

    def bind_to(self, path: str) -> None:
        """Bind it, once.

        Raises:
            OSError: see `socket.socket.bind`.
            PathTakenError: another program has replaced the new file at once.
        """
        # The kernel takes the file's mode from the socket, less the umask (unix(7) does not say
        # so; net/unix/af_unix.c, unix_bind_bsd). A chmod of the path would come too late.
        os.fchmod(self.fileno(), MODE)
        self.bind(path)
        fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            status = os.fstat(fd)
            if not stat.S_ISSOCK(status.st_mode):
                raise _taken(errno.EADDRINUSE, "has been replaced by another program", path)
            self._path, self._identity = path, _identity(status)
            if stat.S_IMODE(status.st_mode) != MODE:  # the umask denies them to the owner, too
                Path(f"/proc/self/fd/{fd}").chmod(MODE)
        finally:
            os.close(fd)

    def close(self) -> None:
        """Remove the path, and close the socket. May be called twice."""
        identity, self._identity = self._identity, None
        if identity is not None:
            # While the socket is open no other file can have its inode's number.
            with suppress(OSError):  # it may not be removed: the next program replaces it
                _remove(self._path, identity)
        super().close()


def bind(path: str, kind: socket.SocketKind = socket.SOCK_STREAM) -> BoundSocket:
    """A unix socket that is bound to a path, with mode 0600.

    Args:
        path: where; a socket file there that no process has bound is replaced.
        kind: SOCK_STREAM or SOCK_DGRAM.

    Raises:
        PathTakenError: a process has bound it, or it is not a socket.
        OSError: the path is too long, or there can be no socket.
    """
    _clear(path)
    sock = BoundSocket(socket.AF_UNIX, kind | socket.SOCK_CLOEXEC)
    try:
        sock.bind_to(path)
    except OSError as error:
        sock.close()
        parent = Path(path).absolute().parent
        if error.errno == errno.ENOENT and not parent.is_dir():
            raise OSError(errno.ENOENT, f"there is no directory {parent}", path) from None
        if error.errno == errno.EADDRINUSE and not isinstance(error, PathTakenError):
            # Another process was faster.
            raise _taken(errno.EADDRINUSE, "is in use", path) from None
        raise
    return sock


def is_listening(path: str) -> bool:
    """Whether a stream socket that is bound to this path listens, as far as it can be known.

    Nothing is connected, which a back-end for one front-end would take for its front-end. The
    kernel lists which sockets listen, by the name that their program has given, and only those of
    this network namespace. A socket that a process has bound to the file, and that is not in the
    list, counts as one that listens: `vhost_user.channel.connect` waits until it does.

    Args:
        path: of the socket.
    """
    try:
        code = _probe(path)
    except OSError:  # too long for a socket
        return False
    if code in (0, errno.ENOENT, errno.ECONNREFUSED):
        return False  # a datagram socket, or no process has bound it
    # Read after the probe: what is not in it now has been bound elsewhere, not later.
    states = _listed(_TABLE.read_bytes(), path)
    if states:
        return any(states)
    return code == errno.EPROTOTYPE


def peer_pid(sock: socket.socket) -> int:
    """The process at the other end of a Unix socket (SO_PEERCRED).

    Returns:
        0 if the kernel does not know it, or it is in another pid namespace.
    """
    with suppress(OSError, struct.error):
        found = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        return max(0, int(_CREDENTIALS.unpack(found)[0]))
    return 0


def _listed(table: bytes, path: str) -> list[bool]:
    """Whether they listen, of the sockets with this name that are bound and not connected.

    Args:
        table: what /proc/net/unix contains. The number of an inode is padded with spaces to five
            characters (net/unix/af_unix.c, unix_seq_show), and a name has any bytes.
        path: the name.
    """
    name = re.escape(os.fsencode(path))
    # Num RefCount Protocol Flags Type St Inode Path
    line = rb"^\S+: \w+ \w+ (\w+) \w+ (\w+) +\d+ " + name + rb"$"
    found = re.findall(line, table, re.MULTILINE)
    return [bool(int(flags, 16) & _LISTENS) for flags, state in found if int(state) == _UNCONNECTED]


def _probe(path: str) -> int:
    """Connect a datagram socket: a program that listens does not notice. Returns the error number.

    EPROTOTYPE shows that a process has bound the path for streams, even if it does not listen yet,
    under whatever name and in whatever network namespace. ECONNREFUSED: no process has bound it.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
        return probe.connect_ex(path)


def _clear(path: str) -> None:
    """Remove a socket file that a killed process has left."""
    try:
        status = os.lstat(path)
    except OSError:
        return  # not there; bind reports any other error
    if not stat.S_ISSOCK(status.st_mode):
        raise _taken(errno.EEXIST, "exists and is not a socket", path)
    code = _probe(path)
    if code == errno.ENOENT:
        return
    if code != errno.ECONNREFUSED:
        raise _taken(errno.EADDRINUSE, "is in use", path)
    try:
        _remove(path, _identity(status))
    except OSError as error:
        raise _taken(errno.EADDRINUSE, f"cannot be replaced: {error.strerror}", path) from error


def _remove(path: str, identity: _Identity) -> None:
    """Remove a path if it is this file.

    Raises:
        OSError: it is, and may not be removed.
    """
    with suppress(FileNotFoundError):
        if _identity(os.lstat(path)) == identity:
            os.unlink(path)  # noqa: PTH108  a socket's name, not a file's


def _identity(status: os.stat_result) -> _Identity:
    return status.st_dev, status.st_ino


def _taken(code: int, text: str, path: str) -> PathTakenError:
    return PathTakenError(code, text, path)
