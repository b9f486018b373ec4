"""Batches of eventfds: the tests run on both implementations."""
# ruff: noqa: D103 - the name of a test says what it is about

from __future__ import annotations

import errno
import os
import resource
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from tests.waiting import open_fds
from vhost_user import eventfd, native
from vhost_user.eventfd import EventfdBatch, NativeEventfds, PythonEventfds, python_take
from vhost_user.readiness import readable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WITHOUT_CONTEXT = """
import os, resource
from vhost_user import eventfd
fd = os.eventfd(0, 0)
resource.setrlimit(resource.RLIMIT_NOFILE, (fd + 1, fd + 1))  # the context needs a descriptor
print(eventfd.may_wait())
eventfd.signal(fd)
print(eventfd.take(fd))
os.eventfd_write(fd, 2**64 - 2)
eventfd.signal(fd)
print(os.eventfd_read(fd))
"""
FULL = 0xFFFF_FFFF_FFFF_FFFE


@pytest.fixture(params=[NativeEventfds, PythonEventfds])
def batch(request: pytest.FixtureRequest) -> EventfdBatch:
    made: EventfdBatch = request.param()
    return made


@pytest.fixture
def fds(batch: EventfdBatch) -> Iterator[list[int]]:
    made = batch.create(70)
    yield made
    batch.close(made)


def test_creates_distinct_nonblocking_private_descriptors(fds: list[int]) -> None:
    assert len(set(fds)) == 70
    for fd in fds:
        assert not os.get_blocking(fd)
        assert not os.get_inheritable(fd)


def test_signals_add_up_until_drained(batch: EventfdBatch, fds: list[int]) -> None:
    batch.signal(fds)
    batch.signal(tuple(fds[:3]))
    assert batch.drain(fds) == [2, 2, 2] + [1] * 67
    assert batch.drain(fds) == [0] * 70


def test_a_signal_wakes_who_waits(batch: EventfdBatch, fds: list[int]) -> None:
    batch.signal(fds[5:6])
    assert readable(fds, 5) == [fds[5]]


def test_a_full_counter_counts_as_signalled(batch: EventfdBatch, fds: list[int]) -> None:
    os.eventfd_write(fds[1], FULL)
    batch.signal(fds[:3])
    first, full, last = batch.drain(fds[:3])
    assert (first, last) == (1, 1)
    assert full >= FULL  # the kernel itself may add one more


def full_eventfd() -> tuple[int, list[int]]:
    fd = os.eventfd(0, 0)
    os.eventfd_write(fd, FULL)
    return fd, [fd]


def full_pipe() -> tuple[int, list[int]]:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, bytes(4096))
    return writer, [reader, writer]


def full_socket() -> tuple[int, list[int]]:
    ours, theirs = (end.detach() for end in socket.socketpair())
    os.set_blocking(ours, False)
    with suppress(BlockingIOError):
        while True:
            os.write(ours, bytes(4096))
    return ours, [ours, theirs]


Blocking = Callable[[], tuple[int, list[int]]]


@pytest.fixture(params=[full_eventfd, full_pipe, full_socket])
def blocking(request: pytest.FixtureRequest) -> Iterator[int]:
    """A descriptor that takes no write without waiting, and whose O_NONBLOCK a peer has cleared."""
    make: Blocking = request.param
    fd, fds = make()
    os.set_blocking(fd, True)
    yield fd
    for each in fds:
        os.close(each)


def test_a_signal_never_waits(blocking: int) -> None:
    batch = NativeEventfds()
    for signal in (
        eventfd.signal,
        lambda fd: batch.signal([fd]),
        lambda fd: batch.signal([fd] * 3),
    ):
        signal(blocking)
        assert os.get_blocking(blocking)  # the flag is the peer's affair


def test_where_a_signal_may_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not eventfd.may_wait()
    monkeypatch.setattr(native, "available", False)
    assert eventfd.may_wait()


def test_without_contexts_there_is_the_flag() -> None:
    """In a process of its own, which cannot make a context for asynchronous I/O."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_CONTEXT], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["True", "1", str(FULL)]


def test_a_read_never_waits(blocking: int) -> None:
    eventfd.signal(blocking)
    if stat.S_ISFIFO(os.fstat(blocking).st_mode):
        with pytest.raises(OSError, match=os.strerror(errno.EBADF)):  # its end for writing
            eventfd.take(blocking)
        return
    os.set_blocking(blocking, True)
    while eventfd.take(blocking):
        pass
    assert NativeEventfds().drain([blocking]) == [0]
    assert python_take(blocking) == 0


def test_more_signals_than_the_kernel_keeps_completions(fds: list[int]) -> None:
    for _ in range(200):
        eventfd.signal(fds[0])
        NativeEventfds().signal(fds)
    assert eventfd.take(fds[0]) == 400
    assert eventfd.take(fds[69]) == 200


@pytest.mark.parametrize("take", [eventfd.take, python_take])
@pytest.mark.parametrize("make", [os.pipe, lambda: [s.detach() for s in socket.socketpair()]])
def test_pipes_and_sockets_are_notifiers(
    take: Callable[[int], int], make: Callable[[], tuple[int, int]]
) -> None:
    reader, writer = make()
    assert take(reader) == 0
    eventfd.signal(writer)
    assert take(reader) == 1
    os.write(writer, b"x")
    assert take(reader) > 0
    assert take(reader) == 0
    os.close(writer)
    with pytest.raises(BrokenPipeError):
        take(reader)
    os.close(reader)


def test_what_is_no_notifier_is_an_error(tmp_path: Path) -> None:
    folder = os.open(tmp_path, os.O_RDONLY)
    for operation in (eventfd.signal, eventfd.take):
        with pytest.raises(OSError, match=r"descriptor|supported|directory"):
            operation(folder)
    os.close(folder)
    for operation in (eventfd.signal, eventfd.take):
        with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
            operation(folder)


def test_a_child_process_signals_as_well(fds: list[int]) -> None:
    eventfd.signal(fds[0])
    child = os.fork()
    if not child:
        try:
            eventfd.signal(fds[0])
        finally:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert eventfd.take(fds[0]) == 2


def test_prepared_sets_do_the_same(batch: EventfdBatch, fds: list[int]) -> None:
    prepared = batch.prepare(fds[:4])
    prepared.signal()
    prepared.signal()
    batch.signal(fds[1:2])
    assert prepared.drain() == [2, 3, 2, 2]
    assert prepared.drain() == [0] * 4
    assert batch.drain(fds) == [0] * 70


def test_nothing_is_fine(batch: EventfdBatch) -> None:
    assert batch.create(0) == []
    batch.signal([])
    assert batch.drain([]) == []
    assert batch.prepare([]).drain() == []
    batch.prepare([]).signal()
    batch.close([])


def test_one_bad_descriptor_does_not_keep_the_others(batch: EventfdBatch) -> None:
    good = batch.create(2)
    (closed,) = batch.create(1)
    os.close(closed)
    mixed = [good[0], closed, good[1]]
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        batch.signal(mixed)
    assert batch.drain(good) == [1, 1]
    batch.signal(good)
    prepared = batch.prepare(mixed)
    for drain in (lambda: batch.drain(mixed), prepared.drain, prepared.signal):
        with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
            drain()
    assert batch.drain(good) == [
        1,
        1,
    ]  # of prepared.signal; the earlier drains have reset the others
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        batch.close(mixed)
    for fd in good:
        with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
            os.fstat(fd)


def test_creates_all_or_none(batch: EventfdBatch) -> None:
    before = open_fds()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, before))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 20, hard))
    try:
        with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
            batch.create(highest + 40)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert open_fds() <= before


def test_no_descriptor_is_left_behind(batch: EventfdBatch) -> None:
    before = open_fds()
    made = batch.create(300)
    batch.prepare(made).signal()
    batch.close(made)
    assert open_fds() <= before


def test_the_compiled_one_is_the_default_where_it_is_built(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert isinstance(eventfd.default(), NativeEventfds)
    monkeypatch.setattr(native, "available", False)
    assert isinstance(eventfd.default(), PythonEventfds)
