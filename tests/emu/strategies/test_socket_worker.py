"""A worker of the strategy `processes`: jobs as packets, and messages on sockets passed to it."""
# ruff: noqa: D102, D103 - the names say what they are about

from __future__ import annotations

import errno
import os
import socket
import struct
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, NamedTuple

import pytest

from emu.strategies import socket_worker as wire
from emu.strategies.socket_worker import Worker, rights
from tests.timeouts import PROGRAM_TIMEOUT, TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

HEADER = struct.Struct("<III")
KEY = 7


class Message(NamedTuple):
    """A message of a job: its bytes, whether a reply is due, and its descriptors."""

    data: bytes
    due: bool = True
    fds: tuple[int, ...] = ()


class Result(NamedTuple):
    """A worker's answer."""

    outcome: int
    number: int
    times: list[tuple[int, int]]
    replies: list[bytes]
    fds: list[int]


class Coordinator:
    """A worker in a thread, a channel to it, and the back-end's end of a device's socket."""

    def __init__(self) -> None:
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.channel.settimeout(TIMEOUT)
        self.device, self.back_end = socket.socketpair()
        self.back_end.settimeout(TIMEOUT)
        self._theirs = theirs
        self._thread = threading.Thread(target=Worker(theirs).serve, daemon=True)
        self._thread.start()
        assert self.channel.recv(100) == wire.READY

    def send(
        self, messages: Sequence[Message], *, milliseconds: int, brings: bool, key: int = KEY
    ) -> None:
        """Send a job; with ``brings`` the device's socket goes with it."""
        head = wire.JOB.pack(key, milliseconds, brings, len(messages))
        described = [wire.MESSAGE.pack(len(m.data), len(m.fds), m.due) for m in messages]
        fds = [self.device.fileno()] if brings else []
        fds += [fd for message in messages for fd in message.fds]
        data = b"".join((head, *described, *(message.data for message in messages)))
        self.channel.sendmsg([data], rights(fds))

    def result(self) -> Result:
        data, ancillary, _, _ = self.channel.recvmsg(wire.PACKET, 1024)
        outcome, count, number = wire.RESULT.unpack_from(data)
        at = wire.RESULT.size
        done = [wire.DONE.unpack_from(data, at + n * wire.DONE.size) for n in range(count)]
        at += count * wire.DONE.size
        replies = []
        for _, _, length in done:
            replies.append(data[at : at + length])
            at += length
        assert at == len(data)
        times = [(start, end) for start, end, _ in done]
        return Result(outcome, number, times, replies, wire.descriptors(ancillary))

    def close(self) -> None:
        self.channel.close()
        self._thread.join(TIMEOUT)
        assert not self._thread.is_alive()
        for sock in (self._theirs, self.device, self.back_end):
            sock.close()


@pytest.fixture
def coordinator() -> Iterator[Coordinator]:
    made = Coordinator()
    yield made
    made.close()


def reply(number: int, payload: bytes = b"") -> bytes:
    return HEADER.pack(number, 5, len(payload)) + payload


def test_messages_are_exchanged_in_order(coordinator: Coordinator) -> None:
    """The next one is sent when the reply to the one before has come."""
    messages = [Message(b"first"), Message(b"posted", due=False), Message(b"last")]
    coordinator.send(messages, milliseconds=10**6, brings=True)
    back_end = coordinator.back_end
    assert back_end.recv(100) == b"first"
    back_end.sendall(reply(1, b"payload"))
    got = back_end.recv(100)
    while len(got) < len(b"postedlast"):
        got += back_end.recv(100)
    assert got == b"postedlast"
    back_end.sendall(reply(2))
    result = coordinator.result()
    assert (result.outcome, result.number) == (wire.FINISHED, 0)
    assert result.replies == [reply(1, b"payload"), b"", reply(2)]
    flat = [time for times in result.times for time in times]
    assert flat == sorted(flat)


def test_a_socket_is_kept_under_its_key(coordinator: Coordinator) -> None:
    """Until another one comes under that key."""
    for brings in (True, False, True):
        coordinator.send([Message(b"x", due=False)], milliseconds=1000, brings=brings)
        assert coordinator.back_end.recv(10) == b"x"
        assert coordinator.result().outcome == wire.FINISHED


def test_descriptors_go_both_ways(coordinator: Coordinator) -> None:
    """The worker closes its copies."""
    read_end, write_end = os.pipe()
    messages = [Message(b"x", fds=(write_end,))]
    coordinator.send(messages, milliseconds=10**6, brings=True)
    _, ancillary, _, _ = coordinator.back_end.recvmsg(10, 100)
    (passed,) = wire.descriptors(ancillary)
    coordinator.back_end.sendmsg([reply(1)], rights([passed]))
    os.close(passed)
    os.close(write_end)
    (back,) = coordinator.result().fds
    os.write(back, b"here")
    os.close(back)
    assert os.read(read_end, 10) == b"here"
    assert os.read(read_end, 10) == b"", "no copy is open any more"
    os.close(read_end)


def test_a_back_end_that_does_not_answer_in_time(coordinator: Coordinator) -> None:
    """The messages before have their replies; a part of a reply is none."""
    coordinator.send([Message(b"a"), Message(b"b")], milliseconds=20, brings=True)
    coordinator.back_end.recv(10)
    coordinator.back_end.sendall(reply(1))
    coordinator.back_end.recv(10)
    coordinator.back_end.sendall(reply(2, b"xyz")[:-1])
    result = coordinator.result()
    assert result.outcome == wire.TIMED_OUT
    assert result.replies in ([reply(1)], []), "the first one may have been too late as well"


@pytest.mark.parametrize("at", ["before the message", "in the reply"])
def test_a_back_end_that_disconnects(coordinator: Coordinator, at: str) -> None:
    """With the error number."""
    if at == "before the message":
        coordinator.back_end.close()
    coordinator.send([Message(b"a")], milliseconds=10**6, brings=True)
    if at == "in the reply":
        coordinator.back_end.recv(10)
        coordinator.back_end.sendall(reply(1, b"xyz")[:-1])
        coordinator.back_end.close()
    result = coordinator.result()
    assert (result.outcome, result.replies) == (wire.DISCONNECTED, [])
    assert result.number in (errno.EPIPE, errno.ECONNRESET)


def test_the_program_serves_an_inherited_channel_and_ends_with_it() -> None:
    """It imports none of this project's modules besides itself."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        argv = [sys.executable, "-m", "emu.strategies.socket_worker", str(theirs.fileno())]
        process = subprocess.Popen(argv, pass_fds=(theirs.fileno(),))
        theirs.close()
        ours.settimeout(PROGRAM_TIMEOUT)
        assert ours.recv(100) == wire.READY
        ours.close()
        assert process.wait(TIMEOUT) == 0
