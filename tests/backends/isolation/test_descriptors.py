"""Descriptors that cannot do what they are for: they cost the ring, the channel or the connection.

The program goes on, the neighbour is served all the time, and the next front-end is served too.
"""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import ctypes
import os
import select
import signal
import socket
import struct
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.backends.isolation import pair
from tests.backends.served import Blk
from tests.timeouts import TIMEOUT
from vhost_user.errors import Disconnected, ProtocolError
from vhost_user.messages import FrontendRequest as F
from vhost_user.messages import Request
from vhost_user.payloads import U64
from vhost_user.readiness import readable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.backends.rig import Rig


class Made(NamedTuple):
    """A descriptor to send, and what must stay open meanwhile."""

    fd: int
    kept: tuple[int, ...] = ()


def _opened(path: str, flags: int = os.O_RDWR) -> Callable[[Path], Made]:
    return lambda _: Made(os.open(path, flags))


def _directory(folder: Path) -> Made:
    return Made(os.open(folder, os.O_RDONLY | os.O_DIRECTORY))


def _path_only(folder: Path) -> Made:
    return Made(os.open(folder, os.O_PATH))


def _memfd(_folder: Path) -> Made:
    return Made(os.memfd_create("plain"))


def _read_only_memfd(_folder: Path) -> Made:
    fd = os.memfd_create("read-only")
    return Made(os.open(f"/proc/self/fd/{fd}", os.O_RDONLY), (fd,))


def _pipe(end: int, *, other: bool) -> Callable[[Path], Made]:
    def make(_folder: Path) -> Made:
        ends = os.pipe()
        if other:
            return Made(ends[end], (ends[1 - end],))
        os.close(ends[1 - end])
        return Made(ends[end])

    return make


def _full_pipe(_folder: Path) -> Made:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, bytes(4096))
    os.set_blocking(writer, True)
    return Made(writer, (reader,))


def _full_eventfd(_folder: Path) -> Made:
    fd = os.eventfd(0, 0)
    os.eventfd_write(fd, (1 << 64) - 2)
    return Made(fd)


def _socket(*, connected: bool) -> Callable[[Path], Made]:
    def make(_folder: Path) -> Made:
        if not connected:
            return Made(socket.socket(socket.AF_UNIX).detach())
        ours, theirs = socket.socketpair()
        return Made(ours.detach(), (theirs.detach(),))

    return make


def _half_open_socket(_folder: Path) -> Made:
    ours, theirs = socket.socketpair()
    theirs.close()
    return Made(ours.detach())


def _listening(*, pending: bool) -> Callable[[Path], Made]:
    def make(folder: Path) -> Made:
        listener = socket.socket(socket.AF_UNIX)
        path = str(folder / f"listening-{pending}-{listener.fileno()}")
        listener.bind(path)
        listener.listen()
        if not pending:
            return Made(listener.detach())
        client = socket.socket(socket.AF_UNIX)
        client.connect(path)
        return Made(listener.detach(), (client.detach(),))

    return make


def _epoll(*, ready: bool) -> Callable[[Path], Made]:
    def make(_folder: Path) -> Made:
        epoll, event = select.epoll(), os.eventfd(int(ready))
        epoll.register(event, select.EPOLLIN)
        fd = os.dup(epoll.fileno())
        epoll.close()
        return Made(fd, (event,))

    return make


def _timerfd(_folder: Path) -> Made:
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.timerfd_create(1, 0)
    libc.timerfd_settime(fd, 0, struct.pack("qqqq", 0, 10_000_000, 0, 10_000_000), None)
    return Made(fd)


def _pidfd(_folder: Path) -> Made:
    ended = subprocess.Popen(["true"])
    fd = os.pidfd_open(ended.pid)
    ended.wait()
    return Made(fd)


MAKERS: dict[str, Callable[[Path], Made]] = {
    "directory": _directory,
    "O_PATH": _path_only,
    "/dev/null": _opened("/dev/null"),
    "/dev/zero": _opened("/dev/zero"),
    "/dev/full": _opened("/dev/full"),
    "memfd": _memfd,
    "read-only memfd": _read_only_memfd,
    "pipe, read end": _pipe(0, other=True),
    "pipe, read end, no writer": _pipe(0, other=False),
    "pipe, write end": _pipe(1, other=True),
    "pipe, write end, no reader": _pipe(1, other=False),
    "full pipe that blocks": _full_pipe,
    "full eventfd that blocks": _full_eventfd,
    "socket": _socket(connected=True),
    "socket, not connected": _socket(connected=False),
    "socket, other end closed": _half_open_socket,
    "listening socket": _listening(pending=False),
    "listening socket, one pending": _listening(pending=True),
    "epoll": _epoll(ready=False),
    "epoll, ready": _epoll(ready=True),
    "timerfd": _timerfd,
    "pidfd of a process that has ended": _pidfd,
}
#: Those to which nothing can be written: a ring that has one for its calls fails.
UNWRITABLE = (
    *("directory", "/dev/full", "read-only memfd", "pipe, read end"),
    *("pipe, write end, no reader", "epoll", "timerfd"),
)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pair.Pair]:
    folder = tmp_path_factory.mktemp("pair")
    with pair.running(Blk(), folder) as given:
        given.neighbour.goes_on()
        yield given


@pytest.fixture
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Made]:
    made = MAKERS[request.param](tmp_path)
    yield made
    for fd in (made.fd, *made.kept):
        os.close(fd)


def _set_up(rig: Rig, **fds: int) -> None:
    """Start the ring of the kind with other descriptors than its own."""
    ring = rig.rings[Blk.ring]
    rig.set_features()
    rig.set_mem_table()
    for number, request in ring.requests().items():
        slot = number.name.removeprefix("SET_VRING_").lower()
        changed = request._replace(fds=(fds[slot],)) if slot in fds else request
        rig.call(changed._replace(need_reply=True))


def _tried(given: pair.Pair, act: Callable[[Rig], None]) -> None:
    """Act as a front-end, which may be refused; then the rest of the program goes on."""
    rig = pair.connect(given.victim, given.kind)
    with suppress(ProtocolError, Disconnected):
        act(rig)
    given.neighbour.goes_on()
    rig.close()
    given.serves_the_next()
    given.neighbour.goes_on()
    assert given.process.poll() is None


every_descriptor = pytest.mark.parametrize("made", MAKERS, indirect=True)


@every_descriptor
def test_a_kick(program: pair.Pair, made: Made) -> None:
    def act(rig: Rig) -> None:
        _set_up(rig, kick=made.fd)
        program.kind.submit(rig, 0)
        program.neighbour.goes_on()
        rig.get_base(Blk.ring)

    _tried(program, act)


@every_descriptor
def test_a_call(program: pair.Pair, made: Made, request: pytest.FixtureRequest) -> None:
    name = request.node.callspec.params["made"]

    def act(rig: Rig) -> None:
        _set_up(rig, call=made.fd)
        program.kind.submit(rig, 0)
        if name in UNWRITABLE:
            assert readable([rig.rings[Blk.ring].err_fd], TIMEOUT), "the ring fails"
        else:
            program.neighbour.goes_on()
        rig.get_base(Blk.ring)

    _tried(program, act)


@every_descriptor
def test_an_error_descriptor(program: pair.Pair, made: Made) -> None:
    def act(rig: Rig) -> None:
        _set_up(rig, err=made.fd)
        rig.rings[Blk.ring].add([(1 << 50, 16)], [(1 << 50, 1)])
        program.neighbour.goes_on()
        rig.get_base(Blk.ring)

    _tried(program, act)


@every_descriptor
def test_a_back_end_channel(program: pair.Pair, made: Made) -> None:
    """A capacity that has grown is to be reported there."""
    image = Blk().image(program.folder / pair.VICTIM)

    def act(rig: Rig) -> None:
        rig.start()
        rig.call(Request(F.SET_BACKEND_REQ_FD, None, (made.fd,), need_reply=True))
        program.kind.work(rig)
        os.truncate(image, image.stat().st_size + 512)
        program.process.send_signal(signal.SIGHUP)
        program.neighbour.goes_on()
        rig.get_base(Blk.ring)

    _tried(program, act)


def test_a_front_end_that_is_its_own_channel_or_kick(program: pair.Pair) -> None:
    """While the back-end held that end, the connection would never end."""

    def channel(rig: Rig) -> None:
        fd = rig.connection.fileno()
        with pytest.raises(ProtocolError, match="refused"):
            rig.call(Request(F.SET_BACKEND_REQ_FD, None, (fd,), need_reply=True))

    def kick(rig: Rig) -> None:
        for number in (F.SET_VRING_KICK, F.SET_VRING_CALL, F.SET_VRING_ERR):
            with pytest.raises(ProtocolError, match="refused"):
                rig.ack(number, U64(0), (rig.connection.fileno(),))

    _tried(program, channel)
    _tried(program, kick)
