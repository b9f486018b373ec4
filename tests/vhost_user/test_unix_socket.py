"""Unix sockets with a path: why one is not bound, and that nothing of others is removed.

`tests/test_unix_sockets.py` has what all users of this module keep.
"""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import errno
import itertools
import os
import socket
import stat
import threading
from collections import deque
from typing import TYPE_CHECKING

import pytest

from vhost_user import unix_socket

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_socket_of_its_kind_that_programs_do_not_inherit(
    kind: socket.SocketKind, tmp_path: Path
) -> None:
    path = str(tmp_path / "s")
    with unix_socket.bind(path, kind) as sock:
        assert (sock.type, sock.getsockname()) == (kind, path)
        assert not os.get_inheritable(sock.fileno())


@pytest.mark.parametrize(
    ("kind", "number", "text"),
    [
        ("file", errno.EEXIST, "exists and is not a socket"),
        ("directory", errno.EEXIST, "exists and is not a socket"),
        ("link", errno.EEXIST, "exists and is not a socket"),
        ("listening", errno.EADDRINUSE, "is in use"),
        ("another kind", errno.EADDRINUSE, "is in use"),
    ],
)
def test_what_is_there_stays(kind: str, number: int, text: str, tmp_path: Path) -> None:
    """With the reason in the error."""
    path = tmp_path / "s"
    with socket.socket(
        socket.AF_UNIX, socket.SOCK_DGRAM if kind == "another kind" else socket.SOCK_STREAM
    ) as other:
        if kind == "file":
            path.write_text("precious")
        elif kind == "directory":
            path.mkdir()
        elif kind == "link":
            path.symlink_to(tmp_path / "nothing")
        else:
            other.bind(str(path))
            if kind == "listening":
                other.listen()
        before = path.lstat().st_ino
        with pytest.raises(unix_socket.PathTakenError) as caught:
            unix_socket.bind(str(path))
        assert (caught.value.errno, caught.value.strerror) == (number, text)
        assert caught.value.filename == str(path)
        assert path.lstat().st_ino == before


def test_a_path_that_is_bound_but_does_not_listen_yet_is_in_use(tmp_path: Path) -> None:
    """Its process would listen in a moment, on a name that leads to another program."""
    path = str(tmp_path / "s")
    with unix_socket.bind(path), pytest.raises(unix_socket.PathTakenError, match="in use"):
        unix_socket.bind(path)


def test_a_look_at_a_path_connects_to_nobody(tmp_path: Path) -> None:
    """A back-end would take the connection for a front-end."""
    path = str(tmp_path / "s")
    with unix_socket.bind(path) as sock:
        sock.listen()
        with pytest.raises(unix_socket.PathTakenError):
            unix_socket.bind(path)
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            sock.accept()


def test_there_is_no_moment_with_another_mode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file has its mode when bind(2) returns, before any other call on it."""
    modes: list[int] = []
    bound = unix_socket.BoundSocket.bind

    def look(sock: unix_socket.BoundSocket, path: str) -> None:
        bound(sock, path)
        modes.append(stat.S_IMODE(os.lstat(path).st_mode))

    monkeypatch.setattr(unix_socket.BoundSocket, "bind", look)
    before = os.umask(0)
    try:
        unix_socket.bind(str(tmp_path / "s")).close()
    finally:
        os.umask(before)
    assert modes == [0o600]


def test_a_path_that_may_not_be_removed_does_not_prevent_the_close(tmp_path: Path) -> None:
    """The directory has gone."""
    folder = tmp_path / "d"
    folder.mkdir()
    sock = unix_socket.bind(str(folder / "s"))
    folder.rename(tmp_path / "e")
    folder.touch()
    sock.close()
    sock.close()
    assert (tmp_path / "e" / "s").is_socket()


@pytest.mark.parametrize(
    ("name", "text"), [("none/s", "there is no directory"), ("x" * 200, "too long")]
)
def test_a_path_that_cannot_be_bound_is_the_systems_error(
    name: str, text: str, tmp_path: Path
) -> None:
    with pytest.raises(OSError, match=text) as caught:
        unix_socket.bind(str(tmp_path / name))
    assert not isinstance(caught.value, unix_socket.PathTakenError)


def test_a_socket_listens_only_once_it_does(tmp_path: Path) -> None:
    """A path that is missing, a file, bound, or bound by a datagram socket does not."""
    path = str(tmp_path / "s p")
    assert not unix_socket.is_listening(path)
    with unix_socket.bind(path) as sock:
        assert not unix_socket.is_listening(path)
        sock.listen()
        assert unix_socket.is_listening(path)
        assert not unix_socket.is_listening(path[1:])
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
            assert unix_socket.is_listening(path)
    assert not unix_socket.is_listening(path)
    with unix_socket.bind(path, socket.SOCK_DGRAM):
        assert not unix_socket.is_listening(path)


def test_the_list_pads_the_number_of_an_inode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is small until a machine that has just started has made 10,000 sockets, pipes and others.

    Connections have the name of the socket that accepted them, and do not listen.
    """
    path, table = str(tmp_path / "s"), tmp_path / "table"
    monkeypatch.setattr(unix_socket, "_TABLE", table)
    with unix_socket.bind(path):
        for inode in ("    7", " 1142", "10000", "4294967295"):
            for flags, state, listens in (("00000000", "01", False), ("00010000", "01", True)):
                table.write_text(
                    "Num       RefCount Protocol Flags    Type St Inode Path\n"
                    f"000000008d0923b8: 00000003 00000000 00000000 0001 03 {inode}\n"
                    f"000000004c8d3c7f: 00000003 00000000 00000000 0001 03 {inode} {path}\n"
                    f"00000000ad1de988: 00000002 00000000 {flags} 0001 {state} {inode} {path}\n"
                )
                assert unix_socket.is_listening(path) == listens, inode


@pytest.mark.parametrize("character", ["\n", "\r", "\x0b", "\x85", "\u2028", "\udcff", "(", " "])
def test_any_name_is_found_in_the_list(character: str, tmp_path: Path) -> None:
    """Whatever ends a line elsewhere, and bytes that are no text."""
    path = str(tmp_path / f"{character}s{character}{character}p{character}")
    with unix_socket.bind(path) as sock:
        assert not unix_socket.is_listening(path)
        sock.listen()
        assert unix_socket.is_listening(path)


@pytest.mark.parametrize("name", ["relative", "link"])
def test_a_socket_with_another_name_counts_as_listening(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list has the name that the program gave, so that nothing more is known."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "link").symlink_to(folder)
    path = str(folder / "s")
    monkeypatch.chdir(folder)
    with unix_socket.bind("s" if name == "relative" else str(tmp_path / "link" / "s")) as sock:
        assert unix_socket.is_listening(path)
        sock.listen()
        assert unix_socket.is_listening(path)
    assert not unix_socket.is_listening(path)


def test_a_path_that_is_too_long_does_not_listen(tmp_path: Path) -> None:
    assert not unix_socket.is_listening(str(tmp_path / ("x" * 200)))


def test_a_socket_that_listens_is_not_missed_while_others_come_and_go(tmp_path: Path) -> None:
    """The kernel gives out the list in parts, between which sockets are closed."""
    path, ended = str(tmp_path / "s"), threading.Event()

    def churn(folder: Path) -> None:
        folder.mkdir()
        held: deque[socket.socket] = deque()
        for number in itertools.count():
            if ended.is_set():
                break
            held.append(unix_socket.bind(str(folder / str(number % 200))))
            held[-1].listen()
            if len(held) > 100:
                held.popleft().close()
        for sock in held:
            sock.close()

    threads = [threading.Thread(target=churn, args=(tmp_path / str(n),)) for n in range(2)]
    with unix_socket.bind(path) as sock:
        sock.listen()
        for thread in threads:
            thread.start()
        try:
            assert all(unix_socket.is_listening(path) for _ in range(300))
        finally:
            ended.set()
            for thread in threads:
                thread.join()


def test_the_kernel_knows_the_peer() -> None:
    """This process is its own; a socket of another family has none."""
    one, other = socket.socketpair()
    with one, other:
        assert unix_socket.peer_pid(one) == os.getpid()
    with socket.socket() as internet:
        assert unix_socket.peer_pid(internet) == 0


def test_a_directory_that_is_missing_is_named(tmp_path: Path) -> None:
    """The user has to make it."""
    path = tmp_path / "none" / "x.sock"
    with pytest.raises(OSError, match=f"there is no directory {path.parent}") as caught:
        unix_socket.bind(str(path))
    assert caught.value.errno == errno.ENOENT
