"""What a disk sends on the back-end channel when its image has grown."""
# ruff: noqa: D102, D103 - the names say what they are about

from __future__ import annotations

import os
import socket
import struct
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from backends.blk_device import BlkDevice
from backends.image import Image
from backends.io_pool import IoPool
from tests.backends.rig import ALL_PROTOCOL_FEATURES, Rig
from tests.timeouts import TIMEOUT
from vhost_user.codec import HEADER, NEED_REPLY, REPLY, VERSION, encode
from vhost_user.errors import Refused
from vhost_user.features import ProtocolFeature
from vhost_user.messages import BackendRequest, Request
from vhost_user.messages import FrontendRequest as F
from vhost_user.payloads import U64, Config
from vhost_user.readiness import readable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from backends.loop import Loop

SECTORS = 64
CHANGE = BackendRequest.CONFIG_CHANGE_MSG
CONFIG_CHANGE = HEADER.pack(CHANGE, VERSION | NEED_REPLY, 0)
REPLY_OK = encode(CHANGE, VERSION | REPLY, U64(0))


class Disk:
    """A disk whose image can grow, with its front-end."""

    def __init__(self, device: BlkDevice, rig: Rig, path: Path, stack: ExitStack) -> None:
        self.device = device
        self.rig = rig
        self._path = path
        self._stack = stack

    def channel(self) -> socket.socket:
        """Give the back-end a channel; returns the front-end's end of it."""
        ours, theirs = socket.socketpair()
        self._stack.enter_context(ours)
        with theirs:
            self.rig.ack(F.SET_BACKEND_REQ_FD, None, (theirs.fileno(),))
        return ours

    def grow(self, sectors: int) -> None:
        """Returns when the device has read the size; a message could be handled before that."""
        os.truncate(self._path, sectors * 512)
        noted = threading.Event()
        self.device.loop.post(self.rig.backend.refresh)
        self.device.loop.post(noted.set)
        assert noted.wait(TIMEOUT)

    def capacity(self) -> int:
        reply = self.rig.call(Request(F.GET_CONFIG, Config(0, 0, bytes(8))))
        assert reply is not None
        assert isinstance(reply.payload, Config)
        return int(struct.unpack("<Q", reply.payload.data)[0])


def silent(channel: socket.socket) -> bool:
    return not readable([channel.fileno()], 0.05)


def received(channel: socket.socket) -> bytes:
    assert readable([channel.fileno()], TIMEOUT), "nothing was sent"
    return channel.recv(1000)


@pytest.fixture
def make(loop: Loop, attach: Callable[..., Rig], tmp_path: Path) -> Iterator[Callable[..., Disk]]:
    path = tmp_path / "disk"
    path.write_bytes(bytes(SECTORS * 512))
    pool = IoPool(1)
    with ExitStack() as stack:
        stack.callback(pool.close)

        def made(**options: object) -> Disk:
            device = BlkDevice("disk", loop, Image(str(path)), 2, pool)
            return Disk(device, attach(device, **options), path, stack)

        yield made


@pytest.fixture
def disk(make: Callable[..., Disk]) -> Disk:
    made = make()
    made.rig.start()
    return made


def test_growth_is_reported(disk: Disk) -> None:
    channel = disk.channel()
    assert disk.capacity() == SECTORS
    disk.grow(2 * SECTORS)
    assert received(channel) == CONFIG_CHANGE
    assert disk.capacity() == 2 * SECTORS, "requested before the reply, as QEMU does"
    channel.send(REPLY_OK)
    disk.grow(2 * SECTORS)
    assert silent(channel), "nothing has changed since"


def test_without_reply_ack_no_reply_is_requested(make: Callable[..., Disk]) -> None:
    disk = make(protocol_features=ALL_PROTOCOL_FEATURES & ~ProtocolFeature.REPLY_ACK)
    disk.rig.start()
    channel = disk.channel()
    disk.rig.connection.call(Request(F.GET_FEATURES))
    for factor in (2, 3):
        disk.grow(factor * SECTORS)
        assert received(channel) == HEADER.pack(CHANGE, VERSION, 0)


def test_a_front_end_that_does_not_reply_receives_one_message(disk: Disk) -> None:
    channel = disk.channel()
    disk.grow(2 * SECTORS)
    assert received(channel) == CONFIG_CHANGE
    for factor in (3, 4, 5):
        disk.grow(factor * SECTORS)
    assert disk.rig.rings[1].stop() == 0, "it waits for nothing"
    assert silent(channel)
    channel.send(REPLY_OK)
    assert received(channel) == CONFIG_CHANGE
    assert disk.capacity() == 5 * SECTORS


def test_nothing_is_sent_while_all_rings_are_stopped(make: Callable[..., Disk]) -> None:
    disk = make()
    channel = disk.channel()
    disk.grow(2 * SECTORS)
    assert silent(channel)
    disk.rig.start()
    assert received(channel) == CONFIG_CHANGE
    channel.send(REPLY_OK)
    for ring in disk.rig.rings:
        ring.stop()
    disk.grow(3 * SECTORS)
    assert silent(channel)
    assert disk.capacity() == 3 * SECTORS


def test_a_channel_that_comes_after_the_change(disk: Disk) -> None:
    disk.grow(2 * SECTORS)
    assert received(disk.channel()) == CONFIG_CHANGE


def test_a_message_without_a_reply_is_sent_again_on_a_new_channel(disk: Disk) -> None:
    old = disk.channel()
    disk.grow(2 * SECTORS)
    assert received(old) == CONFIG_CHANGE
    new = disk.channel()
    assert old.recv(1) == b"", "the old one is closed"
    assert received(new) == CONFIG_CHANGE
    new.send(REPLY_OK)
    disk.grow(3 * SECTORS)
    assert received(new) == CONFIG_CHANGE


@pytest.mark.parametrize(
    "data", [b"\xff" * 64, REPLY_OK + REPLY_OK], ids=["invalid", "unsolicited"]
)
def test_an_invalid_message_closes_the_channel_only(
    disk: Disk, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    channel = disk.channel()
    disk.grow(2 * SECTORS)
    assert received(channel) == CONFIG_CHANGE
    channel.send(data)
    assert received(channel) == b""
    assert "its channel is closed" in caplog.text
    disk.grow(3 * SECTORS)
    assert received(disk.channel()) == CONFIG_CHANGE


def test_an_error_reply_is_one_line(disk: Disk, caplog: pytest.LogCaptureFixture) -> None:
    channel = disk.channel()
    disk.grow(2 * SECTORS)
    assert received(channel) == CONFIG_CHANGE
    channel.send(encode(CHANGE, VERSION | REPLY, U64(22)))
    disk.grow(3 * SECTORS)
    assert received(channel) == CONFIG_CHANGE
    assert caplog.messages == ["disk: CONFIG_CHANGE_MSG was answered with 22"]


def test_a_closed_channel_does_not_end_the_connection(disk: Disk) -> None:
    disk.channel().close()
    disk.grow(2 * SECTORS)
    assert disk.capacity() == 2 * SECTORS


def test_nothing_is_sent_without_config(make: Callable[..., Disk]) -> None:
    """Not even if CONFIG was negotiated when the image grew."""
    disk = make()
    channel = disk.channel()
    disk.grow(2 * SECTORS)
    without = disk.rig.connection.protocol_features & ~ProtocolFeature.CONFIG
    disk.rig.ack(F.SET_PROTOCOL_FEATURES, U64(int(without)))
    disk.rig.start()
    assert silent(channel)
    disk.grow(3 * SECTORS)
    assert silent(channel)


def test_the_channel_ends_with_its_connection(disk: Disk) -> None:
    channel = disk.channel()
    disk.rig.connection.close()
    assert received(channel) == b""
    disk.grow(2 * SECTORS)


def test_a_descriptor_that_is_not_a_socket_is_refused(disk: Disk) -> None:
    reader, writer = os.pipe()
    with pytest.raises(Refused):
        disk.rig.ack(F.SET_BACKEND_REQ_FD, None, (writer,))
    os.close(writer)
    assert os.read(reader, 1) == b"", "the back-end has closed it"
    os.close(reader)


def test_a_smaller_image_is_one_line(disk: Disk, caplog: pytest.LogCaptureFixture) -> None:
    channel = disk.channel()
    disk.grow(SECTORS // 2)
    assert silent(channel)
    assert disk.capacity() == SECTORS
    assert "the capacity is unchanged" in caplog.text
