"""virtio-rng: random bytes for the guest (virtio 1.2, section 5.4)."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from backends import stats
from backends.limits import RNG_REQUEST_BYTES
from backends.virtio_device import VirtioDevice
from vhost_user.errors import FrontendError
from vhost_user.features import ProtocolFeature
from vhost_user.mapping import GONE, look
from vhost_user.virtio.ring_limits import RNG

if TYPE_CHECKING:
    from backends.loop import Loop
    from backends.ring import Ring
    from vhost_user.virtqueue import Chain


class SourceError(ValueError):
    """The file cannot be used as a source of random bytes; the text is for the user."""


class RandomSource:
    """A file of random bytes. A regular file is read again from its beginning when it ends.

    Args:
        path: a character device such as ``/dev/urandom``, or a regular file that is not empty.

    Raises:
        SourceError: it cannot be used.
    """

    def __init__(self, path: str) -> None:
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise SourceError(f"{path}: {error.strerror}") from error
        status = os.fstat(self._fd)
        if not stat.S_ISCHR(status.st_mode) and not (
            stat.S_ISREG(status.st_mode) and status.st_size
        ):
            os.close(self._fd)
            raise SourceError(f"{path}: not a character device or a regular file with contents")

    def read_into(self, buffer: memoryview) -> int:
        """Fill a buffer; how many bytes it got.

        Raises:
            OSError: the source cannot be read.
        """
        done = os.readv(self._fd, [buffer])
        if not done:
            os.lseek(self._fd, 0, os.SEEK_SET)
            done = os.readv(self._fd, [buffer])
        return done

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


class RngDevice(VirtioDevice):
    """An entropy device.

    Args:
        name: what errors and tables call it.
        loop: the loop that serves it.
        source: where the bytes come from; it stays the caller's.
        rings: how many request queues it has; virtio has one.
        counters: its slots in the statistics.
    """

    backend_type = "rng"
    ring_limits = RNG

    def __init__(
        self,
        name: str,
        loop: Loop,
        source: RandomSource,
        rings: int = 1,
        counters: memoryview | None = None,
    ) -> None:
        super().__init__(name, loop, rings, counters)
        self._source = source
        self.protocol_features |= ProtocolFeature.INFLIGHT_SHMFD

    def serve(self, ring: Ring, chain: Chain) -> int:
        """Fill the request's buffers; see `VirtioDevice.serve`.

        Raises:
            FrontendError: the request is not of buffers that the device writes, and only those
                (section 5.4.6.1), or the source cannot be read.
        """
        if chain.readable or not chain.writable:
            raise FrontendError(
                "a request must have buffers that the device writes, and no others",
                device=self.name,
                ring=ring.index,
            )
        room, written = RNG_REQUEST_BYTES, 0
        for buffer in chain.writable:
            part = buffer[:room]
            try:
                done = self._source.read_into(part)
            except OSError as error:
                if error.errno == GONE:
                    look([part])
                    ring.check_memory()
                raise FrontendError(
                    f"the source of random bytes: {error.strerror}",
                    device=self.name,
                    ring=ring.index,
                ) from error
            written, room = written + done, room - done
            if done < len(part) or not room:
                break
        self.counters[stats.BYTES_WRITTEN] += written
        return written
