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


def test_inherited_descriptor_must_be_a_unix_stream() -> None:
    read, write = os.pipe()
    with pytest.raises(ServerError, match="--fd"):
        inherit(read)
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other,
        pytest.raises(ServerError, match="not a unix stream socket"),
    ):
        inherit(other.fileno())
    os.close(read)
    os.close(write)
