"""A real device on a loop that the harness turns itself, with a front-end's end of its socket."""

from __future__ import annotations

import atexit
import logging
import mmap
import os
import shutil
import socket
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from backends import stats
from backends.control import Control, ControlOptions
from backends.loop import Loop
from backends.ring import Ring
from backends.server import DeviceServer, listen
from backends.virtio_device import VirtioDevice
from vhost_user.codec import VERSION, encode
from vhost_user.errors import VhostUserError
from vhost_user.features import ProtocolFeature
from vhost_user.inflight import ring_bytes
from vhost_user.memory import PAGE_SIZE
from vhost_user.messages import FrontendRequest as F
from vhost_user.payloads import (
    U64,
    Inflight,
    LogArea,
    MemoryRegion,
    MemTable,
    VringAddr,
    VringState,
)
from vhost_user.readiness import readable
from vhost_user.virtqueue import batch, split_offsets
from vhost_user.virtqueue.layout import DESCRIPTOR, DESCRIPTOR_SIZE, F_INDIRECT, F_NEXT, F_WRITE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.fuzz.reader import Reader
    from vhost_user.payload_layout import Payload

MEMORY = 1 << 20
RING_SIZE = 16
#: Guest address of the parts of a request, and of an indirect table.
DATA, TABLE = 0x10000, 0x8000
_USER = 0x7E00_0000_0000
_MOST_TURNS = 200


class InlinePool:
    """Does at once, in the harness's thread, what a device's threads would do."""

    def submit(self, run: Callable[[], object], failed: Callable[[Exception], object]) -> None:
        """Do it."""
        try:
            run()
        except Exception as error:  # noqa: BLE001  as the pool's threads
            failed(error)

    def close(self) -> None:
        """There are no threads."""


class DeviceUnderFuzz:
    """Serves a device, and fails the harness for each exception that is none of the front-end's.

    Args:
        make: makes the device on a loop.
        rings: that are started.
        loop: serves it, if another device is on it as well.
    """

    def __init__(
        self, make: Callable[[Loop], VirtioDevice], rings: list[int], loop: Loop | None = None
    ) -> None:
        logging.getLogger("backends").setLevel(logging.CRITICAL)
        self._unexpected: list[Exception] = []
        for part in (Ring, VirtioDevice, Control):
            self._watch_failures(part)
        self.loop = loop or Loop("fuzz")
        self.device = make(self.loop)
        self._rings = rings
        self._fd, self.memory = _shared("fuzz-ram", MEMORY)
        self._log_fd, self._log = _shared("fuzz-log", MEMORY // PAGE_SIZE // 8)
        # the back-end has all rings of the device in it
        size = self.device.num_rings * ring_bytes(RING_SIZE)
        self._inflight_fd, self.inflight = _shared("fuzz-inflight", size)
        self._kicks = {ring: os.eventfd(0, os.EFD_NONBLOCK) for ring in rings}
        self._call = os.eventfd(0, os.EFD_NONBLOCK)
        self._path = f"{tempfile.mkdtemp(prefix='fuzz-')}/s"
        self.server = DeviceServer(self.device, listen(self._path), ControlOptions())
        atexit.register(shutil.rmtree, Path(self._path).parent)
        self._connect()

    def _watch_failures(self, part: type[Ring | VirtioDevice | Control]) -> None:
        fail = part.fail

        def checked(failed: object, error: Exception) -> None:
            if not isinstance(error, VhostUserError):
                self._unexpected.append(error)
            fail(failed, error)  # type: ignore[arg-type]  # one of the part's objects

        setattr(part, "fail", checked)  # noqa: B010  a method

    def _connect(self) -> None:
        """Negotiate as a new front-end."""
        self._connecting = True
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self._path)
        self.run()
        self.send(F.GET_FEATURES)
        self.send(F.GET_PROTOCOL_FEATURES)
        self.send(F.SET_PROTOCOL_FEATURES, U64(int(self.device.protocol_features) & ~(1 << 8)))
        self.send(F.SET_FEATURES, U64(self.device.features & ~(1 << 29)))
        self.send(F.SET_LOG_BASE, LogArea(len(self._log), 0), self._log_fd)
        if ProtocolFeature.INFLIGHT_SHMFD in self.device.protocol_features:
            self.inflight[:] = bytes(len(self.inflight))
            area = Inflight(len(self.inflight), 0, self.device.num_rings, RING_SIZE)
            self.send(F.SET_INFLIGHT_FD, area, self._inflight_fd)
        self.start_rings()
        self._connecting = False

    def start_rings(self) -> None:
        """Set memory and rings up."""
        table = MemTable((MemoryRegion(0, MEMORY, _USER, 0),))
        self.send(F.SET_MEM_TABLE, table, self._fd)
        for number, ring in enumerate(self._rings):
            self.send(F.SET_VRING_NUM, VringState(ring, RING_SIZE))
            self.send(F.SET_VRING_BASE, VringState(ring, 0))
            self.send(F.SET_VRING_ADDR, self._address(number))
            self.send(F.SET_VRING_CALL, U64(ring), self._call)
            self.send(F.SET_VRING_KICK, U64(ring), self._kicks[ring])
            self.send(F.SET_VRING_ENABLE, VringState(ring, 1))

    @staticmethod
    def _at(number: int) -> int:
        return number * 0x1000

    def _address(self, number: int) -> VringAddr:
        """Of a ring whose used ring is logged."""
        desc, avail, used, _ = (self._at(number) + part for part in split_offsets(RING_SIZE))
        return VringAddr(self._rings[number], 1, _USER + desc, _USER + used, _USER + avail, used)

    def send(self, message: F, payload: Payload | None = None, fd: int | None = None) -> None:
        """Send a message, and have it dealt with; replies are dropped."""
        fds = [] if fd is None else [fd]
        self.send_bytes(encode(message, VERSION, payload), fds)

    def send_bytes(self, data: bytes, fds: list[int] | None = None) -> None:
        """Send bytes, and have them dealt with; a connection that was closed is opened anew."""
        with suppress(OSError):
            socket.send_fds(self.sock, [data], fds or [])
        self.run()
        try:
            while self.sock.recv(1 << 16, socket.MSG_DONTWAIT):
                pass
        except BlockingIOError:
            return
        except OSError:
            pass
        assert not self._connecting, "the device refuses its set-up"
        self.sock.close()
        self.run()
        self._connect()

    def run(self) -> None:
        """Turn the loop until there is nothing to do.

        Raises:
            AssertionError: that does not happen, or something has failed for another reason than
                the front-end's.
        """
        for _ in range(_MOST_TURNS):
            ready = readable([self.loop._data], 0)
            if not ready and not self.loop._again and not self.loop._finally:
                break
            self.loop._turn()
        else:
            raise AssertionError("the device is never idle")
        if self._unexpected:
            raise self._unexpected[0]

    def offer(
        self,
        number: int,
        chain: list[tuple[int, int, int]],
        *,
        indirect: bool,
        heads: Sequence[int] = (0,),
    ) -> None:
        """Make a chain available in an empty ring, and kick it.

        Args:
            number: of the ring in those that were started.
            chain: address, length and flags of its descriptors.
            indirect: they are in a table.
            heads: what the available ring has; the chain begins at 0.
        """
        ring = self._rings[number]
        base = self._at(number)
        desc, avail, _, end = (base + part for part in split_offsets(RING_SIZE))
        self.memory[desc:end] = bytes(end - desc)
        table = b"".join(
            DESCRIPTOR.pack(address, length, flags | (F_NEXT if n < len(chain) - 1 else 0), n + 1)
            for n, (address, length, flags) in enumerate(chain)
        )
        if indirect:
            self.memory[TABLE : TABLE + len(table)] = table
            table = DESCRIPTOR.pack(TABLE, len(table), F_INDIRECT, 0)
        self.memory[desc : desc + len(table)] = table[: RING_SIZE * DESCRIPTOR_SIZE]
        self.send(F.GET_VRING_BASE, VringState(ring, 0))
        self.send(F.SET_VRING_BASE, VringState(ring, 0))
        self.send(F.SET_VRING_ADDR, self._address(number))
        self.send(F.SET_VRING_KICK, U64(ring), self._kicks[ring])
        available = (len(heads), *heads)
        self.memory[avail + 2 : avail + 2 + 2 * len(available)] = b"".join(
            each.to_bytes(2, "little") for each in available
        )
        with self.logged():
            os.eventfd_write(self._kicks[ring], 1)
            self.run()

    @contextmanager
    def logged(self) -> Iterator[None]:
        """Within it, each page that the device writes to is marked in the dirty log.

        Raises:
            AssertionError: one is not.
        """
        before = self.memory[:]
        self._log[:] = bytes(len(self._log))
        yield
        if self.memory[:] == before:
            return
        for page in range(MEMORY // PAGE_SIZE):
            part = slice(page * PAGE_SIZE, (page + 1) * PAGE_SIZE)
            if self.memory[part] != before[part]:
                assert self._log[page // 8] >> page % 8 & 1, f"page {page} is not in the log"

    def differs_from(self, other: DeviceUnderFuzz) -> str:
        """What is not the same in two devices to which the same has been done; or ""."""
        if self.memory[:] != other.memory[:]:
            return "guest memory differs"
        if self.inflight[:] != other.inflight[:]:
            return "the inflight regions differ"
        # One interrupt may be for several requests.
        counters = [
            [count for slot, count in enumerate(each.device.counters) if slot != stats.CALLS]
            for each in (self, other)
        ]
        return "" if counters[0] == counters[1] else f"the counters differ: {counters}"

    def used(self, number: int) -> int:
        """The used index of a ring."""
        used = self._at(number) + split_offsets(RING_SIZE).used
        return int.from_bytes(self.memory[used + 2 : used + 4], "little")


@contextmanager
def batches(*, enabled: bool) -> Iterator[None]:
    """Within it, compiled functions serve rings, or do not."""
    before, batch.enabled = batch.enabled, enabled and batch.enabled
    try:
        yield
    finally:
        batch.enabled = before


def _shared(name: str, size: int) -> tuple[int, mmap.mmap]:
    fd = os.memfd_create(name, os.MFD_CLOEXEC)
    os.ftruncate(fd, size)
    return fd, mmap.mmap(fd, size)


def chain_of(reader: Reader) -> list[tuple[int, int, int]]:
    """A chain as the input describes it: mostly within memory, readable buffers mostly first."""
    chain = []
    for _ in range(reader.number(1) % 12 + 1):
        kind = reader.number(1)
        address = DATA + reader.number(2)
        length = reader.number(1) if kind & 2 else reader.number(2)
        if kind & 4:
            length <<= 9
        if kind & 0xF0 == 0xF0:
            address, length = reader.number(8), reader.number(4)
        chain.append((address, length & 0xFFFF_FFFF, F_WRITE if kind & 1 else 0))
    return chain
