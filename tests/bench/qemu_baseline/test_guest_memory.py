"""Memory of another process: here of this one."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import mmap
import os
from typing import TYPE_CHECKING

import pytest

from bench.qemu_baseline.guest_memory import MemoryPage
from emu.errors import EmuError

if TYPE_CHECKING:
    from contextlib import ExitStack

NAME = "test-guest-memory"


def memfd(owned: ExitStack, name: str) -> int:
    fd = os.memfd_create(name)
    owned.callback(os.close, fd)
    os.ftruncate(fd, 4 * mmap.PAGESIZE)
    return fd


def test_a_page_is_shared_with_the_process(owned: ExitStack) -> None:
    fd = memfd(owned, NAME)
    page = MemoryPage(os.getpid(), NAME, mmap.PAGESIZE)
    assert page.inode == os.fstat(fd).st_ino
    os.pwrite(fd, (1 << 40).to_bytes(8, "little"), mmap.PAGESIZE + 16)
    counter = page.counter(16)
    assert list(counter) == [1 << 40]
    page.bytes[:2] = b"me"
    assert os.pread(fd, 2, mmap.PAGESIZE) == b"me"


def test_a_file_that_is_not_meant_is_left_out(owned: ExitStack) -> None:
    name = f"{NAME}-of-two-vms"
    first = os.fstat(memfd(owned, name)).st_ino
    second = os.fstat(memfd(owned, name)).st_ino
    assert MemoryPage(os.getpid(), name, 0, {first}).inode == second
    assert MemoryPage(os.getpid(), name, 0, {second}).inode == first
    with pytest.raises(EmuError, match=f"has no memfd {name}"):
        MemoryPage(os.getpid(), name, 0, {first, second})


def test_what_cannot_be_mapped_is_an_error(owned: ExitStack) -> None:
    memfd(owned, NAME)
    for name, offset, text in ((NAME, 5, "the memory of process"), ("none", 0, "has no memfd")):
        with pytest.raises(EmuError, match=text):
            MemoryPage(os.getpid(), name, offset)
