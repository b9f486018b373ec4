"""Listening sockets, and their paths."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from backends.server import ServerError, inherit, listen
from vhost_user.channel import MAX_SOCKET_PATH

if TYPE_CHECKING:
    from pathlib import Path


def test_longest_path(tmp_path: Path) -> None:
    base = str(tmp_path) + "/"
    longest = base + "x" * (MAX_SOCKET_PATH - len(base))
    listen(longest).close()
    with pytest.raises(ServerError, match=r"x: a socket's path has 107 bytes at most, not 108"):
        listen(longest + "x")
    with pytest.raises(ServerError):
        listen("")


def test_a_stale_socket_is_replaced_and_one_in_use_is_not(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    first = listen(path)
    with pytest.raises(ServerError, match="in use"):
        listen(path)
    first.close()
    listen(path).close()


def test_other_files_are_not_removed(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("precious")
    with pytest.raises(ServerError, match="not a socket"):
        listen(str(file))
    assert file.read_text() == "precious"


def test_socket_of_another_kind_is_in_use(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(path)
        with pytest.raises(ServerError, match="in use"):
            listen(path)


@pytest.mark.parametrize(
    ("family", "kind", "text"),
    [
        (socket.AF_INET, socket.SOCK_STREAM, "not a unix stream socket"),
        (socket.AF_INET, socket.SOCK_DGRAM, "not a unix stream socket"),
        (socket.AF_UNIX, socket.SOCK_DGRAM, "not a unix stream socket"),
        (socket.AF_UNIX, socket.SOCK_SEQPACKET, "not a unix stream socket"),
        (socket.AF_NETLINK, socket.SOCK_DGRAM, "not a unix stream socket"),
        (socket.AF_UNIX, socket.SOCK_STREAM, "neither listening nor connected"),
    ],
)
def test_an_inherited_socket_has_to_be_a_unix_stream(family: int, kind: int, text: str) -> None:
    """That listens or is connected; any other one is left as it is."""
    with socket.socket(family, kind) as other:
        with pytest.raises(ServerError, match=rf"--fd {other.fileno()}: .*{text}"):
            inherit(other.fileno())
        assert other.fileno() == os.dup2(other.fileno(), other.fileno())


def test_an_inherited_descriptor_has_to_be_a_socket() -> None:
    read, write = os.pipe()
    with pytest.raises(ServerError, match=f"--fd {read}: Socket operation on non-socket"):
        inherit(read)
    os.close(read)
    os.close(write)
    with pytest.raises(ServerError, match=f"--fd {read}: Bad file descriptor"):
        inherit(read)
