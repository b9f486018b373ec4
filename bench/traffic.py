"""A driver of disks and NICs that is not slower than a back-end: rings by `traffic.c`, set up here.

The connection is this project's own front-end. The C part fills the rings and handles completions;
it is compiled with ``$CC``, or ``cc``, when the first driver is made.
"""

from __future__ import annotations

import ctypes
import os
import shlex
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any, Self

from bench.floor_program import NoCompilerError
from tests.backends.rig import RamRegion
from tests.timeouts import TIMEOUT
from vhost_user.features import ProtocolFeature
from vhost_user.frontend import FrontendConnection
from vhost_user.messages import FrontendRequest as F
from vhost_user.messages import Request
from vhost_user.native import address_of
from vhost_user.payloads import U64, MemTable, VringAddr, VringState
from vhost_user.virtio.blk import VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT
from vhost_user.virtqueue import split_offsets

SOURCE = Path(__file__).with_name("traffic.c")
LIBRARY = Path(__file__).with_name("libtraffic.so")
BUILD_SECONDS = 60
#: Descriptors of a ring of a disk, as QEMU has them, and of a NIC.
DISK_RING, NIC_RING = 128, 256
#: Bytes of each request, and of each frame with its header, at most.
LARGEST_BLOCK, LARGEST_FRAME = 64 << 10, 2048 - 64
#: Every so many bytes of a disk begin with their number, a u64.
BLOCK = 4096
_RING_BYTES = 0x4000
_GPA, _USER = 1 << 20, 0x7F00_0000_0000
#: VIRTIO_RING_F_INDIRECT_DESC, VIRTIO_RING_F_EVENT_IDX, VIRTIO_F_VERSION_1.
_FEATURES = 1 << 28 | 1 << 29 | 1 << 32
_PROTOCOL_FEATURES = ProtocolFeature.MQ | ProtocolFeature.REPLY_ACK | ProtocolFeature.CONFIG
_ERRORS = {
    -1: "nothing was completed in 5 s",
    -2: "what was completed was not in flight, or has another length",
    -3: "a request has failed",
    -4: "the data is not that of the block",
    -5: "the kick cannot be written",
}


class TrafficError(Exception):
    """The back-end has not done what it was asked for."""


class _Ring(ctypes.Structure):
    """``struct ring``."""

    _fields_ = [
        ("desc", ctypes.c_void_p),
        ("avail", ctypes.c_void_p),
        ("used", ctypes.c_void_p),
        ("slots", ctypes.c_void_p),
        ("slots_gpa", ctypes.c_uint64),
        ("slot_bytes", ctypes.c_uint64),
        ("kick", ctypes.c_int),
        ("call", ctypes.c_int),
        ("size", ctypes.c_uint16),
        ("next", ctypes.c_uint16),
        ("reaped", ctypes.c_uint16),
        ("kicks", ctypes.c_uint64),
        ("calls", ctypes.c_uint64),
    ]


@cache
def library() -> ctypes.CDLL:
    """The C part, compiled; once in a session.

    Raises:
        NoCompilerError: there is no compiler.
        RuntimeError: it does not compile.
    """
    compiler = shlex.split(os.environ.get("CC") or "cc")
    if shutil.which(compiler[0]) is None:
        raise NoCompilerError(f"{compiler[0]}: no such C compiler; install one, or set CC")
    part = LIBRARY.with_name(f"traffic.{os.getpid()}.o")  # replaced as a whole: another may run it
    flags = ["-O2", "-Wall", "-Wextra", "-shared", "-fPIC"]
    try:
        done = subprocess.run(
            [*compiler, *flags, "-o", str(part), str(SOURCE)],
            capture_output=True,
            text=True,
            timeout=BUILD_SECONDS,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"the driver does not compile: {done.stderr.strip()}")
        part.replace(LIBRARY)
    finally:
        part.unlink(missing_ok=True)
    found = ctypes.CDLL(str(LIBRARY))
    u32, u64, out = ctypes.c_uint32, ctypes.c_uint64, ctypes.POINTER(ctypes.c_uint64)
    rings, number = ctypes.POINTER(_Ring), ctypes.c_int
    found.run_disk.argtypes = (rings, number, number, number, u32, u64, u64, out)
    found.run_nic.argtypes = (rings, number, u32, u64, out)
    return found


class Driver:
    """A device's driver: all of its rings are set up and started.

    Args:
        path: the back-end's socket.
        rings: how many rings it has.
        ring_size: descriptors of each.
        slot_bytes: bytes of buffers for each descriptor.
    """

    def __init__(self, path: str, rings: int, ring_size: int, slot_bytes: int) -> None:
        self._library = library()
        self._connection = FrontendConnection.connect(path, name="bench", timeout=TIMEOUT)
        self._connection.negotiate(features=_FEATURES, protocol_features=_PROTOCOL_FEATURES)
        each = _RING_BYTES + ring_size * slot_bytes
        self._ram = RamRegion(_GPA, rings * each, _USER)
        self._rings = (_Ring * rings)()
        self._call(F.SET_FEATURES, U64(self._connection.features))
        self._call(F.SET_MEM_TABLE, MemTable((self._ram.region,)), self._ram.fd)
        for index, ring in enumerate(self._rings):
            self._set_up(index, ring, index * each, ring_size, slot_bytes)
        for ring in self._rings:
            os.eventfd_write(ring.kick, 1)

    def _set_up(
        self, index: int, ring: _Ring, offset: int, ring_size: int, slot_bytes: int
    ) -> None:
        desc, avail, used, _ = split_offsets(ring_size)
        address = address_of(self._ram.bytes) + offset
        ring.desc, ring.avail, ring.used = address + desc, address + avail, address + used
        ring.slots, ring.slots_gpa = address + _RING_BYTES, _GPA + offset + _RING_BYTES
        ring.slot_bytes, ring.size = slot_bytes, ring_size
        ring.kick = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        ring.call = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        user = _USER + offset
        self._call(F.SET_VRING_NUM, VringState(index, ring_size))
        self._call(F.SET_VRING_BASE, VringState(index, 0))
        self._call(F.SET_VRING_ADDR, VringAddr(index, 0, user + desc, user + used, user + avail, 0))
        self._call(F.SET_VRING_CALL, U64(index), ring.call)
        self._call(F.SET_VRING_KICK, U64(index), ring.kick)
        self._call(F.SET_VRING_ENABLE, VringState(index, 1))

    def _call(self, number: F, payload: Any, *fds: int) -> None:
        self._connection.call(Request(number, payload, fds, need_reply=True), timeout=TIMEOUT)

    @property
    def notifications(self) -> tuple[int, int]:
        """Kicks and calls so far."""
        return sum(ring.kicks for ring in self._rings), sum(ring.calls for ring in self._rings)

    def _check(self, result: int) -> None:
        if result:
            raise TrafficError(_ERRORS[result])

    def close(self) -> None:
        """Disconnect, and release the rings."""
        self._connection.close()
        for ring in self._rings:
            os.close(ring.kick)
            os.close(ring.call)
        self._ram.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


class DiskDriver(Driver):
    """A disk's driver; ring 0 is the first that is used.

    Args:
        path: the back-end's socket.
        rings: how many rings it has.
        disk_bytes: the disk's size.
    """

    def __init__(self, path: str, rings: int, disk_bytes: int) -> None:
        super().__init__(path, rings, DISK_RING, BLOCK + LARGEST_BLOCK)
        self._disk_bytes = disk_bytes

    def run(self, kind: str, *, rings: int, depth: int, block: int, requests: int) -> float:
        """Seconds that the requests take.

        Args:
            kind: ``read`` or ``write``.
            rings: how many rings are used.
            depth: requests in flight on each of them.
            block: bytes of each request, at an offset that is a multiple of it.
            requests: how many.

        Raises:
            TrafficError: the back-end has not done what it was asked for.
        """
        ns = ctypes.c_uint64()
        number = VIRTIO_BLK_T_OUT if kind == "write" else VIRTIO_BLK_T_IN
        blocks = self._disk_bytes // block
        self._check(
            self._library.run_disk(self._rings, rings, depth, number, block, blocks, requests, ns)
        )
        return ns.value / 1e9


class NicDriver(Driver):
    """The driver of a NIC with one pair, whose back-end sends frames back."""

    def __init__(self, path: str) -> None:
        super().__init__(path, 2, NIC_RING, LARGEST_FRAME + 64)

    def run(self, *, size: int, window: int, packets: int) -> float:
        """Seconds until all frames have come back.

        Args:
            size: bytes of each.
            window: how many are on their way at once.
            packets: how many.

        Raises:
            TrafficError: the back-end has not done what it was asked for.
        """
        ns = ctypes.c_uint64()
        self._check(self._library.run_nic(self._rings, window, size, packets, ns))
        return ns.value / 1e9


def stamp(path: Path, size: int) -> None:
    """Make an image of that size whose blocks begin with their numbers."""
    with path.open("wb") as file:
        for number in range(size // BLOCK):
            file.write(number.to_bytes(8, "little").ljust(BLOCK, b"\0"))
