"""Device classes that the suite knows: one row each, and the only place that lists them.

Options, help texts, requests, and the device of the suite's back-end are made from the rows. Python
classes are dotted names that are imported when a case needs them, so that options can be made from
this module alone.
"""

from __future__ import annotations

import importlib
import struct
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class DeviceClass(NamedTuple):
    """One class of device.

    Attributes:
        name: in options and JSON.
        title: of one device, for messages.
        work: makes the requests for a back-end under test, a `peer.device_work.Work`.
        played: the device of the suite's back-end, a `front_end.device.Device`.
        rings_per_queue: rings of one queue as GET_QUEUE_NUM counts them.
        control_ring: a further ring may follow those of the queues.
        queue_without_mq: without MQ a device has one queue; False if virtio does not specify it.
        joint: the rings of several queues take requests at the same time; of others only those of
            the first queue do.
        writes: the smallest request has the device write to guest memory.
        smallest_ring: descriptors that the smallest request needs.
        drops: the device reads and drops the requests of a ring that is disabled.
        disk: cases overwrite the disk that the back-end serves.
        config_first: bytes of configuration space that each device of the class has.
        config_bytes: bytes that a front-end reads.
        config: the configuration space of the suite's back-end.
        features: feature bits that the suite's back-end offers besides those of all classes.
        protocol_features: names of the protocol features that it offers besides those.
    """

    name: str
    title: str
    work: str = ""
    played: str = "vhost_user_conformance.front_end.device.Device"
    rings_per_queue: int = 1
    control_ring: bool = False
    queue_without_mq: bool = True
    joint: bool = True
    writes: bool = True
    smallest_ring: int = 1
    drops: bool = False
    disk: bool = False
    config_first: int = 8
    config_bytes: int = 8
    config: bytes = b""
    features: tuple[int, ...] = ()
    protocol_features: tuple[str, ...] = ()

    @property
    def feature_mask(self) -> int:
        """`features` as a mask."""
        return sum(1 << bit for bit in self.features)

    def ring_limit(self, queues: int) -> int:
        """The number of rings that a device with this many queues may have."""
        return queues * self.rings_per_queue + self.control_ring


_ROWS = (
    DeviceClass(
        name="blk",
        title="disk",
        work="vhost_user_conformance.peer.device_work.BlkWork",
        played="vhost_user_conformance.front_end.device.Disk",
        smallest_ring=4,  # header, data and status, in a size that is a power of 2
        disk=True,
        config_first=36,
        config_bytes=60,
        # virtio 1.3, 5.2.4: a disk of 1 MiB with blocks of 512 bytes and 4 rings.
        config=struct.pack("<QIIHBBI10xH24x", 2048, 0, 126, 2, 16, 63, 512, 4),
        features=(2, 6, 9, 12),  # SEG_MAX, BLK_SIZE, FLUSH, MQ
        protocol_features=("CONFIG", "INFLIGHT_SHMFD"),
    ),
    DeviceClass(
        name="net",
        title="NIC",
        work="vhost_user_conformance.peer.device_work.NetWork",
        played="vhost_user_conformance.front_end.device.FrameSink",
        rings_per_queue=2,
        control_ring=True,
        writes=False,
        drops=True,
        config_first=10,
        config_bytes=12,
        features=(3, 15, 17, 21, 22),  # MTU, MRG_RXBUF, CTRL_VQ, GUEST_ANNOUNCE, MQ
        protocol_features=("NET_MTU", "RARP"),
    ),
    DeviceClass(
        name="fs",
        title="file system",
        work="vhost_user_conformance.peer.device_work.FsWork",
        queue_without_mq=False,
        joint=False,
        config_first=40,
        config_bytes=40,
        config=struct.pack("<36sI", b"conformance", 1),
        protocol_features=("CONFIG",),
    ),
    DeviceClass(
        name="rng",
        title="entropy device",
        work="vhost_user_conformance.peer.device_work.RngWork",
        played="vhost_user_conformance.front_end.device.Entropy",
        protocol_features=("INFLIGHT_SHMFD",),
    ),
)
DEVICE_CLASSES: Mapping[str, DeviceClass] = {row.name: row for row in _ROWS}
#: A device of which the class is not known: no case has it serve requests.
UNKNOWN = DeviceClass(
    name="",
    title="device",
    queue_without_mq=False,
    config=bytes(64),
    protocol_features=("CONFIG",),
)


def row_of(name: str) -> DeviceClass:
    """The row of a class, or `UNKNOWN`."""
    return DEVICE_CLASSES.get(name, UNKNOWN)


def load(dotted: str) -> Any:
    """The Python class that a row names."""
    module, _, name = dotted.rpartition(".")
    return getattr(importlib.import_module(module), name)


def one_of(rows: Iterable[DeviceClass] = _ROWS) -> str:
    """The names of all classes, for help texts; those whose disk is overwritten are marked."""
    *others, last = (f"{row.name}{' (its disk is OVERWRITTEN)' * row.disk}" for row in rows)
    return f"{', '.join(others)} or {last}"
