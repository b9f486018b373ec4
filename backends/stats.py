"""Live counters of a back-end program, in a file that any process may map.

The file has a fixed layout, in host byte order: a header of 64 bytes (`HEADER`: magic, version,
number of devices, counters per device), then 16 u64 per device, of which the first ones are
`COUNTERS`. A counter has one writer, the thread that serves the device, so a plain store is enough,
and a reader sees each counter whole.
"""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

#: Names of the counters, in the order in which they stand in the file.
COUNTERS = (
    "requests",
    "bytes_read",
    "bytes_written",
    "flushes",
    "errors",
    "packets_tx",
    "packets_rx",
    "packets_dropped",
    "calls",
    "kicks",
    "ring_starts",
    "ring_stops",
)
(
    REQUESTS,
    BYTES_READ,
    BYTES_WRITTEN,
    FLUSHES,
    ERRORS,
    PACKETS_TX,
    PACKETS_RX,
    PACKETS_DROPPED,
    CALLS,
    KICKS,
    RING_STARTS,
    RING_STOPS,
) = range(len(COUNTERS))

MAGIC = b"VHSTATS\0"
VERSION = 1
HEADER = struct.Struct("=8sIII44x")
SLOTS = 16
DEVICE_BYTES = SLOTS * 8


class StatsError(ValueError):
    """The file is not a statistics file of this version."""


class StatsWriter:
    """The counters of all devices of a program.

    Args:
        devices: how many devices there are.
        path: the file to keep them in, or None to keep them in memory only.

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(self, devices: int, path: str | None = None) -> None:
        size = HEADER.size + devices * DEVICE_BYTES
        self._map: mmap.mmap | None = None
        if path is None:
            self._bytes = memoryview(bytearray(size))
        else:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
            try:
                os.ftruncate(fd, size)
                os.posix_fallocate(fd, 0, size)  # a full disk is an error here, not a SIGBUS later
                self._map = mmap.mmap(fd, size)
            finally:
                os.close(fd)
            self._bytes = memoryview(self._map)
        self._devices = [
            self._bytes[HEADER.size + n * DEVICE_BYTES :][:DEVICE_BYTES].cast("Q")
            for n in range(devices)
        ]
        HEADER.pack_into(self._bytes, 0, MAGIC, VERSION, devices, len(COUNTERS))

    def device(self, number: int) -> memoryview:
        """The counters of one device: u64 slots, indexed by `REQUESTS` and so on."""
        return self._devices[number]

    def close(self) -> None:
        """Unmap the file, which keeps the last values."""
        for counters in self._devices:
            counters.release()
        self._bytes.release()
        if self._map is not None:
            self._map.close()
            self._map = None


class StatsReader:
    """Reads the file of a `StatsWriter` of another process, while it is written.

    Raises:
        OSError: the file cannot be read.
        StatsError: it is not a statistics file of this version.
    """

    def __init__(self, path: str) -> None:
        with Path(path).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size < HEADER.size:
                raise StatsError(f"{path}: {size} bytes is too short for a statistics file")
            self._map = mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ)
        magic, version, devices, counters = HEADER.unpack_from(self._map)
        if magic != MAGIC or version != VERSION or counters != len(COUNTERS):
            self._map.close()
            raise StatsError(f"{path}: not a statistics file of version {VERSION}")
        if size < HEADER.size + devices * DEVICE_BYTES:
            self._map.close()
            raise StatsError(f"{path}: shorter than its {devices} devices need")
        self._devices = int(devices)

    def per_device(self) -> list[dict[str, int]]:
        """The counters of each device, in the order of the program's sockets."""
        row = struct.Struct(f"={len(COUNTERS)}Q")
        return [
            dict(
                zip(
                    COUNTERS,
                    row.unpack_from(self._map, HEADER.size + n * DEVICE_BYTES),
                    strict=True,
                )
            )
            for n in range(self._devices)
        ]

    def totals(self) -> dict[str, int]:
        """The counters of all devices together."""
        rows = self.per_device()
        return {name: sum(row[name] for row in rows) for name in COUNTERS}

    def close(self) -> None:
        """Unmap the file."""
        self._map.close()


def served(paths: Iterable[str]) -> int:
    """Requests that the programs with these files have completed since they were started.

    Raises:
        OSError, StatsError: a file cannot be read, or is not a statistics file.
    """
    total = 0
    for path in paths:
        reader = StatsReader(path)
        total += reader.totals()["requests"]
        reader.close()
    return total
