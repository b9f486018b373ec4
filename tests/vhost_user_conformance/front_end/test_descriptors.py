"""Descriptors that came with a message: their kind, identity and size."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from vhost_user_conformance.front_end.descriptors import (
    EVENTFD,
    FILE,
    MEMFD,
    PIPE,
    SOCKET,
    describe,
    map_shared,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MAKE: dict[str, Callable[[Path], int]] = {
    EVENTFD: lambda _: os.eventfd(0),
    MEMFD: lambda _: os.memfd_create("x"),
    SOCKET: lambda _: socket.socket(socket.AF_UNIX).detach(),
    FILE: lambda path: os.open(path, os.O_RDWR | os.O_CREAT),
}


@pytest.mark.parametrize("kind", MAKE)
def test_two_descriptors_of_one_file_are_the_same(kind: str, tmp_path: Path) -> None:
    """Of another file of the kind they are not."""
    one, other = MAKE[kind](tmp_path / "one"), MAKE[kind](tmp_path / "other")
    again = os.dup(one)
    assert describe(one).kind == kind
    assert describe(one) == describe(again)
    assert describe(one).identity != describe(other).identity
    for fd in (one, other, again):
        os.close(fd)


def test_both_ends_of_a_pipe() -> None:
    """They are one file."""
    read_end, write_end = os.pipe()
    assert describe(read_end) == describe(write_end)
    assert describe(read_end).kind == PIPE
    os.close(read_end)
    os.close(write_end)


def test_only_memory_and_files_have_a_size(tmp_path: Path) -> None:
    """In bytes, when they were received."""
    for kind, size in ((MEMFD, 4096), (FILE, 4096), (EVENTFD, 0), (SOCKET, 0)):
        fd = MAKE[kind](tmp_path / kind)
        if size:
            os.truncate(fd, size)
        assert describe(fd).size == size
        os.close(fd)


def test_a_mapping_begins_at_an_offset_that_need_not_be_aligned() -> None:
    """It is shared with the file."""
    fd = os.memfd_create("x")
    os.truncate(fd, 8192)
    shared = map_shared(fd, 4096, 100)
    assert shared is not None
    assert len(shared.view) == shared.size == 4096
    shared.view[:4] = b"here"
    assert os.pread(fd, 4, 100) == b"here"
    for size, left in ((8192, 4096), (4196, 4096), (4195, 4095), (100, 0), (0, 0)):
        os.truncate(fd, size)
        assert shared.size == left
    os.close(fd)


@pytest.mark.parametrize("size", [0, 1 << 70])
def test_what_cannot_be_mapped_is_none(size: int) -> None:
    """No size, or one that no machine has; a pipe with any."""
    fd, (read_end, write_end) = os.memfd_create("x"), os.pipe()
    assert map_shared(fd, size, 0) is None
    assert map_shared(read_end, 4096, 0) is None
    for each in (fd, read_end, write_end):
        os.close(each)
