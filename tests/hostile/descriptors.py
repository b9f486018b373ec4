"""Descriptors of every kind that an endpoint may be sent in place of the one that it expects."""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import socket
import struct
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack

_FILE_BYTES = 16 << 20
_libc = ctypes.CDLL(None, use_errno=True)


class Wrong(NamedTuple):
    """A descriptor; ``later`` is called once the endpoint has it."""

    fd: int
    later: Callable[[], None] | None = None


def _opened(path: str, flags: int) -> Callable[[ExitStack], Wrong]:
    return lambda owned: _owned(owned, os.open(path, flags | os.O_CLOEXEC))


def _owned(owned: ExitStack, fd: int, later: Callable[[], None] | None = None) -> Wrong:
    owned.callback(os.close, fd)
    return Wrong(fd, later)


def _file(owned: ExitStack, size: int, flags: int) -> Wrong:
    number, name = tempfile.mkstemp(prefix="hostile-")
    owned.callback(Path(name).unlink)
    os.close(number)
    os.truncate(name, size)
    return _owned(owned, os.open(name, flags | os.O_CLOEXEC))


def _memfd(owned: ExitStack, size: int = _FILE_BYTES) -> int:
    fd = os.memfd_create("hostile", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    owned.callback(os.close, fd)
    os.ftruncate(fd, size)
    return fd


def _read_only(owned: ExitStack) -> Wrong:
    return _owned(owned, os.open(f"/proc/self/fd/{_memfd(owned)}", os.O_RDONLY | os.O_CLOEXEC))


def _path_of_memfd(owned: ExitStack) -> Wrong:
    return _owned(owned, os.open(f"/proc/self/fd/{_memfd(owned)}", os.O_PATH | os.O_CLOEXEC))


def _write_only(owned: ExitStack) -> Wrong:
    return _owned(owned, os.open(f"/proc/self/fd/{_memfd(owned)}", os.O_WRONLY | os.O_CLOEXEC))


def _shrinks(owned: ExitStack) -> Wrong:
    fd = _memfd(owned)
    return Wrong(fd, lambda: os.ftruncate(fd, 0))


def _punched(owned: ExitStack) -> Wrong:
    fd = _memfd(owned)
    keep_and_punch = 3
    length = ctypes.c_long(_FILE_BYTES)
    return Wrong(fd, lambda: _libc.fallocate(fd, keep_and_punch, ctypes.c_long(0), length))


def _sealed(owned: ExitStack) -> Wrong:
    fd = _memfd(owned)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    return Wrong(fd)


def _pair(owned: ExitStack, kind: socket.SocketKind) -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
    owned.callback(ours.close)
    owned.callback(theirs.close)
    return ours, theirs


def _socket(owned: ExitStack) -> Wrong:
    return Wrong(_pair(owned, socket.SOCK_STREAM)[0].fileno())


def _datagram(owned: ExitStack) -> Wrong:
    return Wrong(_pair(owned, socket.SOCK_DGRAM)[0].fileno())


def _readable_socket(owned: ExitStack) -> Wrong:
    ours, theirs = _pair(owned, socket.SOCK_STREAM)
    theirs.send(b"12345678")
    return Wrong(ours.fileno())


def _closed_socket(owned: ExitStack) -> Wrong:
    ours, theirs = _pair(owned, socket.SOCK_STREAM)
    theirs.close()
    return Wrong(ours.fileno())


def _reset_socket(owned: ExitStack) -> Wrong:
    ours, theirs = _pair(owned, socket.SOCK_STREAM)
    ours.send(b"12345678")
    theirs.close()
    return Wrong(ours.fileno())


def _full_socket(owned: ExitStack) -> Wrong:
    ours, _ = _pair(owned, socket.SOCK_STREAM)
    _fill(ours.fileno())
    return Wrong(ours.fileno())


def _fill(fd: int) -> None:
    """Write until it would block; then writes block."""
    os.set_blocking(fd, False)
    for size in (4096, 1):
        with suppress(BlockingIOError):
            while os.write(fd, b"x" * size):
                pass
    os.set_blocking(fd, True)


def _listening(owned: ExitStack, *, pending: bool = False) -> Wrong:
    folder = owned.enter_context(tempfile.TemporaryDirectory(prefix="hostile-"))
    sock = socket.socket(socket.AF_UNIX)
    owned.callback(sock.close)
    sock.bind(f"{folder}/s")
    sock.listen(1)
    if pending:
        client = socket.socket(socket.AF_UNIX)
        owned.callback(client.close)
        client.connect(f"{folder}/s")
    return Wrong(sock.fileno())


def _unconnected(owned: ExitStack) -> Wrong:
    return _owned(owned, socket.socket(socket.AF_UNIX).detach())


def _tcp(owned: ExitStack, *, reset: bool = False) -> Wrong:
    listener = socket.create_server(("127.0.0.1", 0))
    owned.callback(listener.close)
    ours = socket.create_connection(listener.getsockname())
    owned.callback(ours.close)
    theirs, _ = listener.accept()
    owned.callback(theirs.close)
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return Wrong(ours.fileno(), theirs.close if reset else None)


def _pipe(owned: ExitStack, *, write: bool, closed: bool = False, full: bool = False) -> Wrong:
    ends = os.pipe2(os.O_CLOEXEC)
    if full:
        _fill(ends[1])
    mine, other = (ends[1], ends[0]) if write else ends
    owned.callback(os.close, mine)
    if closed:
        os.close(other)
    else:
        owned.callback(os.close, other)
    return Wrong(mine)


def _epoll(owned: ExitStack, *, ready: bool = False) -> Wrong:
    poll = select.epoll()
    owned.callback(poll.close)
    if ready:
        fd = _owned(owned, os.eventfd(1, os.EFD_CLOEXEC)).fd
        poll.register(fd, select.EPOLLIN)
    return Wrong(poll.fileno())


def _timer(owned: ExitStack) -> Wrong:
    fd = _owned(owned, _libc.timerfd_create(1, os.O_CLOEXEC)).fd
    _libc.timerfd_settime(fd, 0, struct.pack("qqqq", 0, 1_000_000, 0, 1_000_000), None)
    return Wrong(fd)


def _inotify(owned: ExitStack) -> Wrong:
    fd = _owned(owned, _libc.inotify_init1(os.O_CLOEXEC)).fd
    folder = owned.enter_context(tempfile.TemporaryDirectory(prefix="hostile-"))
    _libc.inotify_add_watch(fd, folder.encode(), 0x100)
    return Wrong(fd, lambda: os.close(os.open(f"{folder}/f", os.O_CREAT | os.O_WRONLY, 0o600)))


def _eventfd(owned: ExitStack, flags: int, *, at_end: bool = False) -> Wrong:
    fd = _owned(owned, os.eventfd(0, flags | os.EFD_CLOEXEC)).fd
    if at_end:
        os.eventfd_write(fd, 2**64 - 2)
    return Wrong(fd)


def _blocks_later(owned: ExitStack) -> Wrong:
    """The description is shared: the sender may change its flags at any time."""
    fd = _eventfd(owned, os.EFD_NONBLOCK).fd

    def later() -> None:
        os.set_blocking(fd, True)
        os.eventfd_write(fd, 2**64 - 2 - _value(fd))

    return Wrong(fd, later)


def _value(fd: int) -> int:
    for line in Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines():
        name, _, number = line.partition(":")
        if name == "eventfd-count":
            return int(number, 16)
    return 0


def _dead_process(owned: ExitStack) -> Wrong:
    process = subprocess.Popen(["true"])
    fd = os.pidfd_open(process.pid)
    process.wait()
    return _owned(owned, fd)


def _terminal(owned: ExitStack) -> Wrong:
    main, other = os.openpty()
    owned.callback(os.close, other)
    return _owned(owned, main)


def _deleted_directory(owned: ExitStack) -> Wrong:
    folder = tempfile.mkdtemp(prefix="hostile-")
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    Path(folder).rmdir()
    return _owned(owned, fd)


#: Each kind, by name.
KINDS: dict[str, Callable[[ExitStack], Wrong]] = {
    "directory": _opened("/", os.O_RDONLY | os.O_DIRECTORY),
    "deleted directory": _deleted_directory,
    "/dev/null": _opened("/dev/null", os.O_RDWR),
    "/dev/zero": _opened("/dev/zero", os.O_RDWR),
    "/dev/full": _opened("/dev/full", os.O_RDWR),
    "file in /proc": _opened("/proc/self/maps", os.O_RDONLY),
    "O_PATH of a file": lambda owned: _file(owned, _FILE_BYTES, os.O_PATH),
    "O_PATH of a memfd": _path_of_memfd,
    "file": lambda owned: _file(owned, _FILE_BYTES, os.O_RDWR),
    "file of 5 bytes": lambda owned: _file(owned, 5, os.O_RDWR),
    "empty file": lambda owned: _file(owned, 0, os.O_RDWR),
    "read-only memfd": _read_only,
    "write-only memfd": _write_only,
    "sealed memfd": _sealed,
    "memfd that shrinks": _shrinks,
    "memfd that is punched": _punched,
    "unix stream socket": _socket,
    "unix stream socket with data": _readable_socket,
    "unix stream socket, peer closed": _closed_socket,
    "unix stream socket, peer reset": _reset_socket,
    "unix stream socket, full": _full_socket,
    "unix datagram socket": _datagram,
    "unix listening socket": _listening,
    "unix listening socket, one waits": lambda owned: _listening(owned, pending=True),
    "unix socket, not connected": _unconnected,
    "TCP socket": _tcp,
    "TCP socket that is reset": lambda owned: _tcp(owned, reset=True),
    "pipe to read": lambda owned: _pipe(owned, write=False),
    "pipe to read, closed": lambda owned: _pipe(owned, write=False, closed=True),
    "pipe to write": lambda owned: _pipe(owned, write=True),
    "pipe to write, closed": lambda owned: _pipe(owned, write=True, closed=True),
    "pipe to write, full": lambda owned: _pipe(owned, write=True, full=True),
    "epoll": _epoll,
    "epoll that is ready": lambda owned: _epoll(owned, ready=True),
    "timer": _timer,
    "inotify": _inotify,
    "eventfd that blocks": lambda owned: _eventfd(owned, 0),
    "eventfd that blocks, at its end": lambda owned: _eventfd(owned, 0, at_end=True),
    "eventfd at its end": lambda owned: _eventfd(owned, os.EFD_NONBLOCK, at_end=True),
    "eventfd that blocks later": _blocks_later,
    "semaphore": lambda owned: _eventfd(owned, os.EFD_SEMAPHORE, at_end=True),
    "pidfd of a dead process": _dead_process,
    "terminal": _terminal,
}
