"""Live counters of a back-end program, in a file that any process may map.

The file has a fixed layout, in host byte order: a header of 64 bytes (`HEADER`: magic, version,
number of devices, counters per device), then 16 u64 per device, of which the first ones are
`COUNTERS`. A counter has one writer, the thread that serves the device, so a plain store is enough,
and a reader sees each counter whole.
"""

from __future__ import annotations

import errno
import logging
import os
import struct
from pathlib import Path
from typing import TYPE_CHECKING

from vhost_user import output_file
from vhost_user.mapping import Mapping, MappingError

if TYPE_CHECKING:
    from collections.abc import Iterable

log = logging.getLogger("backends")

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


class StatsError(OSError):
    """The file is not a statistics file of this version.

    It is an `OSError`, like that of a file that cannot be read: who reports one reports the other.

    Args:
        path: the file.
        text: the reason.
    """

    def __init__(self, path: str, text: str) -> None:
        super().__init__(errno.EINVAL, text, path)


class StatsWriter:
    """The counters of all devices of a program.

    Args:
        devices: how many devices there are.
        path: the file to keep them in, or None to keep them in memory only.

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(self, devices: int, path: str | None = None) -> None:
        initial = HEADER.pack(MAGIC, VERSION, devices, len(COUNTERS)) + bytes(
            devices * DEVICE_BYTES
        )
        self._mapping: Mapping | None = None
        self._path = path
        if path is None:
            self._bytes = memoryview(bytearray(initial))
        else:
            self._mapping = _new_file(Path(path), initial)
            self._bytes = self._mapping.view
        self._devices = [
            self._bytes[HEADER.size + n * DEVICE_BYTES :][:DEVICE_BYTES].cast("Q")
            for n in range(devices)
        ]

    def device(self, number: int) -> memoryview:
        """The counters of one device: u64 slots, indexed by `REQUESTS` and so on."""
        return self._devices[number]

    def check(self) -> None:
        """Report once that the file has shrunk: its readers see no more counts. No device fails."""
        if self._mapping is not None and self._mapping.lost:
            self._mapping = None
            log.warning("%s has been made shorter: it is not written any more", self._path)

    def close(self) -> None:
        """Unmap the file, which keeps the last values."""
        for counters in self._devices:
            counters.release()
        self._mapping = None
        self._bytes = memoryview(b"")


def _new_file(path: Path, content: bytes) -> Mapping:
    """The mapping of a new file, which appears with its content.

    Readers of an old one of that name keep the old one.
    """
    try:
        with output_file.replaced(path, mode=0o644) as fd:
            os.ftruncate(fd, len(content))
            # A full disk is an error here, not a SIGBUS later.
            os.posix_fallocate(fd, 0, len(content))
            os.pwrite(fd, content, 0)
            return Mapping(fd, 0, len(content))
    except MappingError as error:
        raise OSError(errno.EINVAL, str(error)) from error


class StatsReader:
    """Reads the file of a `StatsWriter` of another process, while it is written.

    Raises:
        OSError: the file cannot be read.
        StatsError: it is not a statistics file of this version.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        # It is read, and not mapped: another program may make it shorter at any time.
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._read_devices()
        except OSError:
            os.close(self._fd)
            raise

    def _read_header(self) -> int:
        """How many devices the file has."""
        header = os.pread(self._fd, HEADER.size, 0)
        if len(header) < HEADER.size:
            raise StatsError(self._path, f"{len(header)} bytes is too short for statistics")
        magic, version, devices, counters = HEADER.unpack(header)
        if magic != MAGIC or version != VERSION or counters != len(COUNTERS):
            raise StatsError(self._path, f"is not a statistics file of version {VERSION}")
        return int(devices)

    def _read_devices(self) -> bytes:
        devices = self._read_header()  # the file may have been damaged since the last time
        size = devices * DEVICE_BYTES
        if os.fstat(self._fd).st_size < HEADER.size + size:
            raise StatsError(self._path, f"is shorter than its {devices} devices need")
        return os.pread(self._fd, size, HEADER.size).ljust(size, b"\0")

    def per_device(self) -> list[dict[str, int]]:
        """The counters of each device, in the order of the program's sockets.

        Raises:
            OSError, StatsError: the file cannot be read any more, or has become shorter.
        """
        rows = self._read_devices()
        row = struct.Struct(f"={len(COUNTERS)}Q")
        return [
            dict(
                zip(
                    COUNTERS,
                    row.unpack_from(rows, at),
                    strict=True,
                )
            )
            for at in range(0, len(rows), DEVICE_BYTES)
        ]

    def totals(self) -> dict[str, int]:
        """The counters of all devices together."""
        rows = self.per_device()
        return {name: sum(row[name] for row in rows) for name in COUNTERS}

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


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
