"""A disk, asked for anything.

Invariant: whatever a guest asks of a disk, nothing but `FrontendError` is raised, the device is
idle afterwards, the image keeps its size, a request changes no more of it than it may, each page of
guest memory that changes is in the dirty log, and compiled functions do the same as Python.
"""

from __future__ import annotations

import os
import tempfile
from typing import TYPE_CHECKING, cast

from backends.blk_device import BlkDevice
from backends.image import Image
from tests.fuzz.device import DATA, DeviceUnderFuzz, InlinePool, batches, chain_of
from tests.fuzz.reader import Reader
from vhost_user.virtio.blk import REQUEST_HEADER, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_IN

if TYPE_CHECKING:
    from backends.io_pool import IoPool
    from backends.loop import Loop

SECTORS = 64
_READ_ONLY = (VIRTIO_BLK_T_IN, VIRTIO_BLK_T_FLUSH, 8)
_SAFE = 4096


class _Disk:
    """A disk whose requests a compiled function serves, or none."""

    def __init__(self, *, compiled: bool) -> None:
        self.image = tempfile.NamedTemporaryFile(prefix="fuzz-")  # noqa: SIM115  never closed
        self.image.truncate(SECTORS * 512)
        with batches(enabled=compiled):
            self.device = DeviceUnderFuzz(self._make, [0])
        self.compiled = compiled

    def _make(self, loop: Loop) -> BlkDevice:
        return BlkDevice("fuzz", loop, Image(self.image.name), 1, cast("IoPool", InlinePool()))

    @property
    def contents(self) -> bytes:
        return os.pread(self.image.fileno(), SECTORS * 512, 0)


_disks = _Disk(compiled=True), _Disk(compiled=False)


def one_input(data: bytes) -> None:
    """How (1 byte), heads, type (1), sector (1 or 8), a chain, then guest memory at DATA."""
    reader = Reader(data)
    how = reader.number(1)
    # the same request several times, or descriptors of its middle as requests
    heads = [0, *(reader.number(1) for _ in range(how >> 3 & 3))]
    kind = reader.number(1)
    sector = reader.number(8) if how & 2 else reader.number(1)
    chain = chain_of(reader)
    if not how & 4:
        chain = [(DATA, REQUEST_HEADER.size, 0), *chain, (DATA + 0xFFFF, 1, 2)]
    contents = REQUEST_HEADER.pack(kind, 0, sector) + reader.take(_SAFE)
    for disk in _disks:
        before = disk.contents
        if not how & 0x20:  # nothing is resubmitted
            disk.device.inflight[:] = bytes(len(disk.device.inflight))
        disk.device.memory[DATA : DATA + len(contents)] = contents
        with batches(enabled=disk.compiled):
            disk.device.offer(0, chain, indirect=bool(how & 1), heads=heads)
        assert os.fstat(disk.image.fileno()).st_size == SECTORS * 512, "it has another size"
        if not how & 4 and kind in _READ_ONLY:
            assert disk.contents == before, "a read has written"
    compiled, python = _disks
    assert compiled.contents == python.contents, "the images differ"
    differ = compiled.device.differs_from(python.device)
    assert not differ, differ
