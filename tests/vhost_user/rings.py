"""Guest memory with a split ring in it, for tests that drive both of its sides."""

from __future__ import annotations

import os
from itertools import pairwise
from typing import TYPE_CHECKING

from vhost_user.memory import MemoryTable
from vhost_user.payloads import MemoryRegion
from vhost_user.virtqueue import DeviceQueue, DriverQueue, split_offsets
from vhost_user.virtqueue.split_driver import STATE_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

USER_BASE = 0x7F00_0000_0000


def guest_memory(size: int, cuts: Sequence[int] = (), *, fd: int | None = None) -> MemoryTable:
    """Guest memory from address 0, one file, in adjacent regions that end at `cuts`."""
    edges = [0, *cuts, size]
    if fd is None:
        fd = os.memfd_create("ram", os.MFD_CLOEXEC)
        os.ftruncate(fd, size)
    regions = [
        # the user addresses are not adjacent, so that a ring cannot cross regions by accident
        MemoryRegion(start, end - start, USER_BASE + (index << 32) + start, start)
        for index, (start, end) in enumerate(pairwise(edges))
    ]
    table = MemoryTable()
    table.replace(regions, [os.dup(fd) for _ in regions])
    os.close(fd)
    return table


class Ring:
    """One ring at the start of guest memory, the driver's state behind it, and buffers after."""

    def __init__(
        self,
        memory: MemoryTable,
        size: int,
        *,
        event_idx: bool,
        log: Callable[[int, int], None] | None = None,
    ) -> None:
        self.memory = memory
        self.size = size
        self.event_idx = event_idx
        self.log = log
        self.at = split_offsets(size)
        state = -(-self.at.end // 16) * 16
        whole = memory.view(0, state + STATE_SIZE)
        self.buffers = state + STATE_SIZE
        self.desc = whole[: self.at.avail]
        self.avail = whole[self.at.avail : self.at.avail + 6 + 2 * size]
        self.used = whole[self.at.used : self.at.end]
        self.state = whole[state:]

    def driver(self) -> DriverQueue:
        """The driver's side, on the memory as it is."""
        return DriverQueue(
            self.size, self.desc, self.avail, self.used, self.state, event_idx=self.event_idx
        )

    def device(self, last_avail: int = 0) -> DeviceQueue:
        """The device's side, on the memory as it is."""
        return DeviceQueue(
            self.size,
            self.desc,
            self.avail,
            self.used,
            self.memory,
            last_avail=last_avail,
            event_idx=self.event_idx,
            log=self.log,
            used_log_gpa=self.at.used if self.log else None,
            ring=3,
        )
