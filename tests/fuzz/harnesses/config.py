"""The configuration space of any device, read and written anywhere.

Invariant: GET_CONFIG and SET_CONFIG of any part of any device's configuration space raise
nothing but `FrontendError`, and what is read has the size that was asked for.
"""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING, cast

from backends.blk_device import BlkDevice
from backends.fabric import Fabric
from backends.image import Image
from backends.net_device import NetDevice
from tests.fuzz.device import DeviceUnderFuzz, InlinePool
from tests.fuzz.reader import Reader
from vhost_user.codec import NEED_REPLY, VERSION
from vhost_user.messages import FrontendRequest as F
from vhost_user.payloads import MAX_CONFIG, Config

if TYPE_CHECKING:
    from backends.io_pool import IoPool
    from backends.loop import Loop

_image = tempfile.NamedTemporaryFile(prefix="fuzz-")  # noqa: SIM115  as long as the process
_image.truncate(1 << 20)


def _blk(loop: Loop) -> BlkDevice:
    return BlkDevice("fuzz", loop, Image(_image.name), 1, cast("IoPool", InlinePool()))


def _net(loop: Loop) -> NetDevice:
    return NetDevice("fuzz", loop, 2, Fabric(switch=False), mac=b"\2\0\0\0\0\1", mtu=1500)


_devices = (DeviceUnderFuzz(_blk, []), DeviceUnderFuzz(_net, []))


def one_input(data: bytes) -> None:
    """Device and message (1 byte), offset (4), flags (1), then the bytes."""
    reader = Reader(data)
    how = reader.number(1)
    device = _devices[how & 1]
    offset = reader.number(4) if how & 2 else reader.number(1)
    flags = reader.number(1)
    body = reader.take(MAX_CONFIG)
    read = device.server.device.read_config(offset, len(body))
    assert read is None or len(read) == len(body)
    number = F.SET_CONFIG if how & 4 else F.GET_CONFIG
    payload = Config(offset, flags, body).pack()
    head = b"".join(n.to_bytes(4, "little") for n in (number, VERSION | (how & NEED_REPLY)))
    device.send_bytes(head + len(payload).to_bytes(4, "little") + payload)
