"""Waits for descriptors: any number, any time."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import threading
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING

import pytest

from tests.descriptors import HIGH, high_descriptors
from vhost_user.readiness import readable, writable

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(params=["low", "high"])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two connected sockets; the first one's number is below or above 1024."""
    with high_descriptors() if request.param == "high" else nullcontext():
        first, second = socket.socketpair()
    with first, second:
        assert (first.fileno() >= HIGH) == (request.param == "high")
        yield first, second


def test_what_can_be_read_is_returned(pair: tuple[socket.socket, socket.socket]) -> None:
    one, other = pair
    assert readable([one, other], 0) == []
    other.send(b"x")
    assert readable([one, other]) == [one]
    assert readable([one.fileno()], 10) == [one.fileno()]


def test_the_end_can_be_read(pair: tuple[socket.socket, socket.socket]) -> None:
    one, other = pair
    other.shutdown(socket.SHUT_WR)
    assert readable([one], 10) == [one]


def test_what_can_be_written_is_returned(pair: tuple[socket.socket, socket.socket]) -> None:
    one, other = pair
    assert writable([one, other], 10) == [one, other]
    one.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while one.send(bytes(65536)):
            pass
    assert writable([one], 0) == []


def test_it_waits_for_an_event_of_another_thread(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    one, other = pair
    sender = threading.Timer(0.01, other.send, [b"x"])
    sender.start()
    assert readable([one], 10) == [one]
    sender.join()


@pytest.mark.parametrize("timeout", [-1.0, 0.0, 0.0003, 0.02])
def test_it_waits_no_less_than_the_time(
    pair: tuple[socket.socket, socket.socket], timeout: float
) -> None:
    start = time.monotonic()
    assert readable([pair[0]], timeout) == []
    assert time.monotonic() - start >= max(0.0, timeout) - 1e-6


def test_a_signal_does_not_end_the_wait() -> None:
    """Its handler runs, and the wait goes on for the rest of the time."""
    one, other = socket.socketpair()
    before = signal.signal(signal.SIGALRM, lambda *_: other.send(b"x"))
    try:
        with one, other:
            signal.setitimer(signal.ITIMER_REAL, 0.01)
            assert readable([one], 10) == [one]
    finally:
        signal.signal(signal.SIGALRM, before)


def test_a_closed_descriptor_is_refused() -> None:
    number = os.dup(0)
    os.close(number)
    closed, other = socket.socketpair()
    closed.close()
    with other:
        for one in (number, closed):
            with pytest.raises(OSError, match="Bad file descriptor") as refused:
                readable([one], 0)
            assert refused.value.errno == errno.EBADF
