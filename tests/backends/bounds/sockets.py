"""Bounds on connections, messages and descriptors."""
# ruff: noqa: D103 - the table says what they try

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from tests.backends.bounds.lab import GIB, tries
from tests.backends.rig import RamRegion
from tests.backends.served import Blk
from tests.timeouts import PROGRAM_TIMEOUT, TIMEOUT
from tests.waiting import wait_until
from vhost_user.codec import VERSION, encode
from vhost_user.errors import VhostUserError
from vhost_user.messages import FrontendRequest as F
from vhost_user.messages import Request
from vhost_user.payloads import U64, Config
from vhost_user.readiness import readable, writable

if TYPE_CHECKING:
    from tests.backends.bounds.lab import Lab

#: Bytes of a message without a payload, and with a number; of GET_CONFIG and its reply.
HEADER, NUMBER = 12, 20
CONFIG = HEADER + 12 + 256


@tries("front-ends that are served")
def served(lab: Lab, most: int) -> None:
    disk = lab.run(Blk())
    front_ends = [lab.attach(disk) for _ in range(most)]
    late = lab.stack.enter_context(socket.socket(socket.AF_UNIX))
    late.connect(disk.paths[0])
    late.sendall(encode(F.GET_FEATURES, VERSION, None))
    for _ in range(3):
        front_ends[0].call(Request(F.GET_FEATURES))
    assert not readable([late.fileno()], 0)
    front_ends[0].connection.close()
    assert readable([late.fileno()], TIMEOUT)
    assert len(late.recv(64)) == NUMBER


@tries("front-ends in the backlog of a socket")
def backlog(lab: Lab, most: int) -> None:
    disk = lab.run(Blk())
    lab.raw(disk)
    waiting = 0
    for _ in range(2 * most):
        sock = lab.stack.enter_context(socket.socket(socket.AF_UNIX))
        sock.setblocking(False)
        with suppress(BlockingIOError):
            sock.connect(disk.paths[0])
            waiting += 1
    assert waiting == most + 1  # Linux admits one more than listen(2) asks for


@tries("rings")
def rings(lab: Lab, most: int) -> None:
    disk = lab.run(Blk(), "--num-queues", str(most))
    reply = lab.attach(disk, rings=1).call(Request(F.GET_QUEUE_NUM))
    assert reply is not None
    assert reply.payload == U64(most)
    kind = Blk()
    arguments = [sys.executable, "-m", kind.module, "--num-queues", str(most + 1)]
    arguments += ["--socket-path", str(lab.folder / "s"), *kind.options(lab.folder)]
    ended = subprocess.run(
        arguments, capture_output=True, text=True, timeout=PROGRAM_TIMEOUT, check=False
    )
    assert ended.returncode == 2
    assert ended.stderr.endswith(f"at most {most} rings each\n")


@tries("memory regions")
def regions(lab: Lab, most: int) -> None:
    rig = lab.attach(lab.run(Blk()))
    rig.set_features()
    for number in range(most + 1):
        ram = RamRegion(GIB + number * 4096, 4096, 0x7E00_0000_0000 + number * 4096)
        lab.stack.callback(ram.close)
        if number < most:
            rig.add_mem_reg(ram)
        else:
            with pytest.raises(VhostUserError, match="refused"):
                rig.add_mem_reg(ram)


@tries("reads of the socket in one turn")
def reads(lab: Lab, most: int) -> None:
    """A message with a descriptor is read alone. The neighbour comes after the last of the turn."""
    disk = lab.run(Blk(), devices=2)
    other, sock = lab.raw(disk, 1), lab.raw(disk)
    error_fd = os.eventfd(0)
    lab.stack.callback(os.close, error_fd)
    sock.settimeout(None)  # with a time-out it would wait until most of the buffer is free
    with disk.stopped():
        for _ in range(2 * most):
            socket.send_fds(sock, [encode(F.SET_VRING_ERR, VERSION, U64(0))], [error_fd])
        other.sendall(encode(F.GET_FEATURES, VERSION, None))
    assert other.recv(64)
    assert disk.reads_before(F.SET_VRING_ERR, F.GET_FEATURES) == most


@tries("bytes of one read")
def read_bytes(lab: Lab, most: int) -> None:
    disk = lab.run(Blk(), devices=2)
    other, sock = lab.raw(disk, 1), lab.raw(disk)
    messages = encode(F.SET_OWNER, VERSION, None) * (most // HEADER + 1000)
    with disk.stopped():
        assert sock.send(messages, socket.MSG_DONTWAIT) == len(messages)
        other.sendall(encode(F.GET_FEATURES, VERSION, None))
    assert other.recv(64)
    assert disk.reads_before(F.SET_OWNER, F.GET_FEATURES) == most // HEADER


@tries("descriptors of one read")
def read_descriptors(lab: Lab, most: int) -> None:
    disk = lab.run(Blk())
    before = disk.descriptors()
    for count in (most, most + 1):  # the first one has too many for a message
        sock = lab.raw(disk)
        message = encode(F.SET_VRING_CALL, VERSION, U64(0))
        socket.send_fds(sock, [message], [sock.fileno()] * count)
        with suppress(ConnectionResetError):
            assert sock.recv(64) == b""
        if count > most:
            disk.logs(f"more than {most} descriptors at once")
    wait_until(lambda: disk.descriptors() <= before, "the descriptors are closed")


@tries("ns for messages in one turn")
def messages_ns(lab: Lab, most: int) -> None:
    """The neighbour's message is read when the time is over, and messages are left."""
    disk = lab.run(Blk(), devices=2)
    other, sock = lab.raw(disk, 1), lab.raw(disk)
    count = 4000
    with disk.stopped():
        sock.sendall(encode(F.GET_FEATURES, VERSION, None) * count)
        other.sendall(encode(F.SET_OWNER, VERSION, None))
    left = count * NUMBER
    while left:
        left -= len(sock.recv(left))
    traced = disk.traced()
    first = traced.index(next(each for each in traced if each.message == F.SET_OWNER.name))
    written = [n for n, each in enumerate(traced) if each.event == "vhost_user_backend_write"]
    assert written[0] < first < written[-1]
    began = traced[written[0] - 1]
    assert began.event == "vhost_user_backend_read"
    assert traced[first].time - began.time >= most - 1000  # the trace has microseconds


@tries("messages whose replies are not sent yet")
def replies(lab: Lab, most: int) -> None:
    """The front-end reads none: these wait in the program, and no message is read any more."""
    disk = lab.run(Blk(), devices=2)
    rig = lab.attach(disk)
    disk.mark()
    sock = lab.stack.enter_context(socket.socket(fileno=os.dup(rig.connection.fileno())))
    message = encode(F.GET_CONFIG, VERSION, Config(0, 0, bytes(256)))
    sock.setblocking(False)
    for _ in range(20_000):
        if not writable([sock], 0.5):
            break
        with suppress(BlockingIOError):
            assert sock.send(message) == len(message)
    else:
        pytest.fail("all of them were taken")
    assert lab.raw(disk, 1)  # the neighbour is served
    disk.process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, disk.process.pid, os.WSTOPPED)
    received = 0
    with suppress(BlockingIOError):
        while data := sock.recv(65536):
            received += len(data)
    written = [each for each in disk.traced() if each.event == "vhost_user_backend_write"]
    waiting = len([each for each in written if each.message == F.GET_CONFIG.name])
    waiting -= received // CONFIG
    disk.process.send_signal(signal.SIGCONT)
    assert 0 < waiting <= most


@tries("descriptors that wait to be closed")
def closing(lab: Lab, most: int) -> None:
    disk = lab.run(Blk())
    rig = lab.attach(disk)
    before, highest = disk.descriptors(), 0
    request = Request(F.SET_VRING_CALL, U64(0), (rig.rings[0].call_fd,), need_reply=True)
    for _ in range(3 * most // 50):
        rig.pipeline([request] * 50)
        highest = max(highest, disk.descriptors())
    assert highest < before + most + 100
