"""A file that shrinks while it is mapped: what is lost reads as zeroes, and is counted."""
# ruff: noqa: D103 - the name of a test says what it is about

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.timeouts import TIMEOUT
from tests.waiting import open_fds
from vhost_user import mapping, native
from vhost_user.mapping import Mapping, MappingError
from vhost_user.memory import PAGE_SIZE
from vhost_user.readiness import readable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PAGES = 64
SIZE = PAGES * PAGE_SIZE


@pytest.fixture
def file() -> Iterator[int]:
    fd = os.memfd_create("file")
    os.ftruncate(fd, SIZE)
    os.pwrite(fd, b"\x07" * SIZE, 0)
    yield fd
    os.close(fd)


def lost(made: Mapping) -> bool:
    return made.lost


def read_a_byte(view: memoryview) -> None:
    assert view[-1] == 0


def write_a_byte(view: memoryview) -> None:
    view[-1] = 5


def copy_out(view: memoryview) -> None:
    assert bytes(view)[-PAGE_SIZE:] == bytes(PAGE_SIZE)


def copy_in(view: memoryview) -> None:
    view[:] = bytes(len(view))


def as_words(view: memoryview) -> None:
    assert view.cast("Q")[-1] == 0


def fail_a_system_call(view: memoryview) -> None:
    """A system call does not fault; what is done about its error does."""
    source = os.eventfd(1)
    with pytest.raises(OSError, match=os.strerror(mapping.GONE)):
        os.readv(source, [view[-8:]])
    os.close(source)
    mapping.look([view[:8], view[-8:]])


@pytest.mark.parametrize(
    "access", [read_a_byte, write_a_byte, copy_out, copy_in, as_words, fail_a_system_call]
)
@pytest.mark.parametrize("kept", [0, 1, PAGES - 1])
def test_an_access_to_what_is_gone_is_counted(
    file: int, access: Callable[[memoryview], None], kept: int
) -> None:
    made = Mapping(file, 0, SIZE)
    before = mapping.losses[0]
    assert not lost(made)
    os.ftruncate(file, kept * PAGE_SIZE)
    access(made.view)
    assert lost(made)
    assert mapping.losses[0] > before


def test_what_is_still_there_is_the_file(file: int) -> None:
    made = Mapping(file, PAGE_SIZE + 5, SIZE - PAGE_SIZE - 5)
    os.ftruncate(file, 8 * PAGE_SIZE)
    assert made.view[0] == 7
    assert not lost(made)
    assert made.view[40 * PAGE_SIZE] == 0
    assert lost(made)
    made.view[0] = 9
    assert os.pread(file, 1, PAGE_SIZE + 5) == b"\x09"


def test_other_mappings_are_not_lost(file: int) -> None:
    first, second = Mapping(file, 0, SIZE), Mapping(file, 0, PAGE_SIZE)
    os.ftruncate(file, PAGE_SIZE)
    assert first.view[-1] == 0
    assert lost(first)
    assert not lost(second)
    assert second.view[0] == 7


def test_system_calls_still_report_what_was_not_accessed(file: int, tmp_path: Path) -> None:
    """So that what another thread has found gone does not become zeroes on a disk."""
    made = Mapping(file, 0, SIZE)
    os.ftruncate(file, 0)
    assert made.view[0] == 0
    disk = os.open(tmp_path / "disk", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with pytest.raises(OSError, match=os.strerror(mapping.GONE)):
        os.pwrite(disk, made.view[PAGE_SIZE : 2 * PAGE_SIZE], 0)
    assert os.fstat(disk).st_size == 0
    os.close(disk)


def test_a_look_at_what_is_there_counts_nothing(file: int) -> None:
    made = Mapping(file, 0, SIZE)
    mapping.look([made.view[5:9], made.view[-1:], made.view[:0]])
    assert not lost(made)


def test_threads_that_find_it_gone_at_the_same_time_all_continue(file: int) -> None:
    made = Mapping(file, 0, SIZE)
    begin = threading.Barrier(9)
    seen: list[int] = []

    def look(number: int) -> None:
        begin.wait()
        seen.extend(made.view[page * PAGE_SIZE] for page in range(number, PAGES, 8))

    threads = [threading.Thread(target=look, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    os.ftruncate(file, 0)
    begin.wait()
    for thread in threads:
        thread.join()
    assert seen == [0] * PAGES


def test_it_is_unmapped_with_the_last_view(file: int) -> None:
    before = open_fds()
    views = [Mapping(file, 0, SIZE).view[1:] for _ in range(2000)]  # more than a chunk of entries
    assert open_fds() <= before
    assert maps() == 2000
    os.ftruncate(file, 0)
    assert views[1999][0] == 0
    assert maps() == 2000, "but for a page"
    del views[:]
    assert maps() == 0


def maps() -> int:
    return Path("/proc/self/maps").read_text().count("/memfd:file ")


def test_huge_pages_are_replaced_whole() -> None:
    huge = 2 << 20
    try:
        fd = os.memfd_create("huge", os.MFD_HUGETLB | os.MFD_HUGE_2MB)
        os.ftruncate(fd, 2 * huge)
        made = Mapping(fd, PAGE_SIZE, 2 * huge - PAGE_SIZE)
    except (OSError, MappingError):
        pytest.skip("no huge pages")
    assert (made.start % huge, made.length) == (0, 2 * huge)
    os.ftruncate(fd, huge)
    assert made.view[-1] == 0
    assert lost(made)
    os.close(fd)


@pytest.mark.parametrize(
    ("offset", "size", "why"),
    [
        (0, SIZE + 1, "of a file of 0x40000"),
        (SIZE, 1, "of a file"),
        (1 << 70, 1, "of a file"),
        (0, 0, "Invalid"),
    ],
)
def test_what_is_not_in_the_file_is_not_mapped(file: int, offset: int, size: int, why: str) -> None:
    with pytest.raises(MappingError, match=why):
        Mapping(file, offset, size)


def test_what_is_no_file_is_not_mapped() -> None:
    reader, writer = os.pipe()
    os.close(writer)
    with pytest.raises(MappingError, match="not for reading and writing"):
        Mapping(reader, 0, 1)
    os.close(reader)
    with pytest.raises(MappingError, match=os.strerror(errno.EBADF)):
        Mapping(reader, 0, 1)


def test_without_the_extension_it_is_mapped_all_the_same(
    file: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "available", False)
    made = Mapping(file, 5, 100)
    assert bytes(made.view) == b"\x07" * 100
    assert not lost(made)


@pytest.mark.slow
def test_a_child_process_maps_as_well(file: int) -> None:
    """Also if another thread was mapping at the moment of the fork."""
    ended = threading.Event()

    def make_mappings() -> None:
        while not ended.is_set():
            Mapping(file, 0, PAGE_SIZE)

    thread = threading.Thread(target=make_mappings)
    thread.start()
    try:
        for _ in range(50):
            child = os.fork()
            if not child:
                status = 1
                try:
                    status = int(Mapping(file, 0, SIZE).view[0] != 7)
                finally:
                    os._exit(status)
            assert status_of(child) == 0
    finally:
        ended.set()
        thread.join()


def status_of(child: int) -> int:
    """Its status when it has ended; a child that does not is killed, and the test fails."""
    ended = os.pidfd_open(child)
    try:
        if not readable([ended], TIMEOUT):
            os.kill(child, signal.SIGKILL)
    finally:
        os.close(ended)
    return os.waitpid(child, 0)[1]


#: A queued signal with the code and the address of a fault; the kernel permits it to the process.
MISALIGNED = """
import ctypes, struct
BUS_ADRALN, SYS_rt_sigqueueinfo = 1, {"x86_64": 129}.get(os.uname().machine, 138)
code = struct.pack("=iii4xQ104x", signal.SIGBUS, 0, BUS_ADRALN, made.start)
assert ctypes.CDLL(None).syscall(SYS_rt_sigqueueinfo, os.getpid(), signal.SIGBUS, code) == 0
assert made.view[0] == 7 and not made.lost
"""


def test_a_misaligned_access_is_no_loss() -> None:
    program = (
        "import os, signal\n"
        "from vhost_user.mapping import Mapping\n"
        "fd = os.memfd_create('x'); os.write(fd, b'\\x07' * 4096)\n"
        f"made = Mapping(fd, 0, 4096)\n{MISALIGNED}"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


OTHERS = {
    "a fault elsewhere": "m = mmap.mmap(fd, 4096); os.ftruncate(fd, 0); m[0]",
    "a signal that was sent": "os.kill(os.getpid(), signal.SIGBUS); signal.pause()",
}


@pytest.mark.parametrize("cause", OTHERS)
def test_what_is_not_ours_ends_the_process_as_ever(cause: str) -> None:
    program = (
        "import mmap, os, signal\n"
        "from vhost_user.mapping import Mapping\n"
        "fd = os.memfd_create('x'); os.ftruncate(fd, 4096)\n"
        "made = Mapping(fd, 0, 4096)\n"
        f"{OTHERS[cause]}"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert done.returncode == -signal.SIGBUS
