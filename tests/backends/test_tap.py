"""A NIC on a TAP device, in a network namespace that lives as long as a test's descriptors."""
# ruff: noqa: D102, D103 - the names say what they are about

from __future__ import annotations

import fcntl
import logging
import os
import socket
import struct
import subprocess
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

import pytest

from backends import stats
from backends.net_device import NetDevice
from backends.server import ServerError
from backends.tap import TapPort, inherit_tap, open_tap
from tests.backends.namespace import Namespace, packet_socket
from tests.backends.nic import BROADCAST, OUTSIDE, Attach, Nic, frame, mac
from tests.timeouts import PROGRAM_TIMEOUT, TIMEOUT
from tests.waiting import wait_until
from vhost_user.messages import FrontendRequest as F
from vhost_user.payloads import U64

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backends.loop import Loop

T = TypeVar("T")
NAME = "emu-test"
TUNSETPERSIST = 0x400454CB
SIOCSIFFLAGS = 0x8914


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    made = Namespace()
    if made.refusal:
        made.close()
        pytest.skip(made.refusal)
    yield made
    made.close()


class World:
    """A NIC of four rings on a TAP device, and a socket on the kernel's side of it."""

    def __init__(self, namespace: Namespace, loop: Loop, attach: Attach, queues: int) -> None:
        fds = namespace.do(lambda: open_tap(NAME, queues))
        self.control = namespace.do(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self.sock = namespace.do(lambda: packet_socket(NAME))
        self.port = TapPort(loop, NAME, fds)
        self.nic = Nic(NetDevice("net0", loop, 4, self.port, mac=mac(1)), attach)

    def receive(self, ethertype: bytes = b"\x88\xb5") -> bytes:
        """The next frame from the NIC; the kernel's own (IPv6 looks for routers) do not count."""
        while True:
            data, (_, _, kind, *_) = self.sock.recvfrom(65536)
            if kind != socket.PACKET_OUTGOING and data[12:14] == ethertype:
                return data

    def set_flags(self, flags: int) -> None:
        fcntl.ioctl(self.control, SIOCSIFFLAGS, struct.pack("16sH22x", NAME.encode(), flags))

    def await_count(self, counter: int, least: int) -> None:
        wait_until(lambda: self.nic.count(counter) >= least, f"the counter reaches {least}")

    def close(self) -> None:
        self.sock.close()
        self.control.close()


@pytest.fixture(params=[1, 2], ids=["one-queue", "multi-queue"])
def world(
    request: pytest.FixtureRequest, namespace: Namespace, loop: Loop, attach: Attach
) -> Iterator[World]:
    made = World(namespace, loop, attach, request.param)
    yield made
    loop.stop()
    made.port.close()
    made.close()


def ours(nic: Nic, pair: int = 0) -> bytes:
    """The next frame of the tests' ethertype."""
    while (data := nic.receive(pair))[12:14] != b"\x88\xb5":
        nic.refill(1, pair)
    return data


def test_frames_go_both_ways(world: World) -> None:
    world.nic.refill(16)
    world.nic.refill(16, pair=1)
    out = frame(OUTSIDE, mac(1), b"out")
    world.nic.send(out)
    assert world.receive() == out
    world.nic.send(out, pair=1)
    assert world.receive() == out
    coming = frame(mac(1), OUTSIDE, b"in")
    world.sock.send(coming)
    # With more than one queue the kernel selects the pair by the flow.
    buffers = world.nic._buffers
    wait_until(lambda: any(bytes(b[12:]).startswith(coming) for b in buffers.values()))


def test_a_frame_to_the_sender_comes_back(world: World) -> None:
    world.nic.refill(16, pair=1)
    mine = frame(mac(1), mac(1), b"mine")
    world.nic.send(mine, pair=1)
    assert ours(world.nic, 1) == mine


def test_rarp_goes_out(world: World) -> None:
    world.nic.rig.ack(F.SEND_RARP, U64(int.from_bytes(mac(5) + bytes(2), "little")))
    data = world.receive(b"\x80\x35")
    assert data[:12] == BROADCAST + mac(5)
    assert data[22:28] == data[32:38] == mac(5)


def test_frames_without_a_buffer_are_dropped_and_counted(world: World) -> None:
    for _ in range(5):
        world.sock.send(frame(mac(1), OUTSIDE, b"too many"))
    world.await_count(stats.PACKETS_DROPPED, 5)
    assert world.nic.count(stats.PACKETS_RX) == 0


def test_interface_that_is_down_drops_and_comes_back(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.set_flags(0)
    with caplog.at_level(logging.WARNING, "backends"):
        for _ in range(3):
            world.nic.send(frame(OUTSIDE, mac(1)))
    world.await_count(stats.PACKETS_DROPPED, 3)
    assert [record.message for record in caplog.records if "is down" in record.message] == [
        "emu-test is down: frames from its NIC are dropped until it is up"
    ]
    world.set_flags(1)
    again = frame(OUTSIDE, mac(1), b"again")
    world.sock.settimeout(0.05)
    end = time.monotonic() + TIMEOUT
    while True:  # the socket first reports that the network was down
        assert time.monotonic() < end
        world.nic.send(again)
        with suppress(OSError):
            assert world.receive() == again
            return


DELETE = "from pyroute2 import IPRoute; ip = IPRoute(); ip.link('del', ifname='emu-test')"


def test_interface_that_is_deleted_is_one_line(
    namespace: Namespace, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    assert world.nic.rig.backend.read_config(6, 2) == b"\1\0"
    with caplog.at_level(logging.WARNING, "backends"):
        argv = [sys.executable, "-c", DELETE]  # a child has its parent thread's namespace
        namespace.do(lambda: subprocess.run(argv, check=True, timeout=TIMEOUT))
        before = world.nic.count(stats.PACKETS_DROPPED)
        for _ in range(3):
            world.nic.send(frame(OUTSIDE, mac(1)))
        world.await_count(stats.PACKETS_DROPPED, before + 3)
    assert [record.message for record in caplog.records if "deleted" in record.message] == [
        "emu-test has been deleted: its NIC sends and receives no more frames"
    ]
    assert world.nic.rig.backend.read_config(6, 2) == b"\0\0", "its link is down"


def test_device_of_another_program(namespace: Namespace) -> None:
    (fd,) = namespace.do(lambda: open_tap(NAME, 1))
    with pytest.raises(ServerError, match="in use by another program"):
        namespace.do(lambda: open_tap(NAME, 1))
    fcntl.ioctl(fd, TUNSETPERSIST, 1)
    os.close(fd)
    with pytest.raises(ServerError, match="with multi_queue, which a NIC of 4 rings needs"):
        namespace.do(lambda: open_tap(NAME, 2))
    (fd,) = namespace.do(lambda: open_tap(NAME, 1))
    assert inherit_tap(fd) == NAME
    fcntl.ioctl(fd, TUNSETPERSIST, 0)
    os.close(fd)


def test_a_descriptor_that_is_not_a_tap_device() -> None:
    read_end, write_end = os.pipe()
    with pytest.raises(ServerError, match="is not a TAP device"):
        inherit_tap(read_end)
    os.close(read_end)
    os.close(write_end)
    with pytest.raises(ServerError, match="1 to 15 bytes"):
        open_tap("x" * 16, 1)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--tap", "a", "--tap-fd", "3"], "use either --tap or --tap-fd"),
        (["--tap", "a", "--tap", "b"], "each --tap belongs to a --socket-path"),
    ],
)
def test_options_that_exclude_each_other(arguments: list[str], text: str) -> None:
    argv = [sys.executable, "-m", "backends.net", "--socket-path", "/tmp/none.sock", *arguments]
    ended = subprocess.run(
        argv, capture_output=True, text=True, timeout=PROGRAM_TIMEOUT, check=False
    )
    assert ended.returncode == 2
    assert text in ended.stderr
