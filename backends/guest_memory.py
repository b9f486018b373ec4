"""A device's guest memory as its front-end shares it, with the dirty log and inflight region."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vhost_user.errors import FrontendError
from vhost_user.features import VHOST_F_LOG_ALL, VIRTIO_RING_F_EVENT_IDX
from vhost_user.mapping import losses
from vhost_user.memory import PAGE_SIZE, MemoryTable

if TYPE_CHECKING:
    from collections.abc import Callable

    from vhost_user.dirty_log import DirtyLog
    from vhost_user.inflight import InflightRegion, InflightRing


class GuestMemory:
    """One device's guest memory.

    Attributes:
        table: the memory table.
        acked: the feature bits that the front-end acknowledged.
        event_idx: rings have the event index fields (VIRTIO_F_EVENT_IDX).
        log: the dirty log, or None.
        losses: `vhost_user.mapping.losses` when no page of this memory was gone.
    """

    def __init__(self) -> None:
        self.table = MemoryTable()
        self.acked = 0
        self.event_idx = False
        self.log: DirtyLog | None = None
        self._inflight: InflightRegion | None = None
        self._changes = 0
        self.losses = losses[0]

    @property
    def generation(self) -> int:
        """Grows with each change of the table, and of the rings' layout by EVENT_IDX.

        Views of before are not valid any more: SET_VRING_ADDR may come before SET_FEATURES.
        """
        return self._changes + self.table.generation

    @property
    def log_mark(self) -> Callable[[int, int], None] | None:
        """Marks (guest-physical address, length) as written to; None while nothing is logged."""
        logging_all = self.acked >> VHOST_F_LOG_ALL & 1
        return self.log.mark if self.log is not None and logging_all else None

    def set_features(self, acked: int) -> None:
        """The front-end acknowledged these feature bits."""
        self.acked = acked
        event_idx = bool(acked >> VIRTIO_RING_F_EVENT_IDX & 1)
        self._changes += event_idx is not self.event_idx
        self.event_idx = event_idx

    def set_log(self, log: DirtyLog | None) -> None:
        """Writes are marked in this log from now on; the one before is closed."""
        if self.log is not None:
            self.log.close()
        self.log = log

    def check_log(self, acked: int, end: int) -> None:
        """Check that the log, if these features use it, covers guest memory up to ``end``.

        Raises:
            FrontendError: it does not.
        """
        if self.log is not None and acked >> VHOST_F_LOG_ALL & 1:
            check_reach(log_reach(self.log), end)

    def set_inflight(self, region: InflightRegion) -> None:
        """Rings that become active from now on use this inflight region."""
        if self._inflight is not None:
            self._inflight.close()
        self._inflight = region

    def inflight_of(self, ring: int) -> InflightRing | None:
        """A ring's part of the inflight region."""
        return None if self._inflight is None else self._inflight.ring(ring)

    def use_table(self, table: MemoryTable) -> None:
        """Replace the memory table by this one, which is still empty; the old one is closed."""
        self.table.close()
        # The new table's generation may be any.
        self._changes += 1 + max(0, self.table.generation - table.generation)
        self.table = table

    def check(self) -> None:
        """Check that no page of the memory that is mapped was gone when it was accessed.

        It costs next to nothing. Call it after an access and before what was read has an effect
        outside of the guest.

        Raises:
            LostMemoryError: the file of guest memory, of the dirty log or of the inflight region
                has shrunk.
        """
        count = losses[0]
        if count == self.losses:
            return
        self.table.check()
        if self.log is not None:
            self.log.check()
        if self._inflight is not None:
            self._inflight.check()
        self.losses = count  # it was another device's memory

    def forget(self) -> None:
        """Drop everything: the front-end has disconnected."""
        self.set_log(None)
        if self._inflight is not None:
            self._inflight.close()
            self._inflight = None
        self.set_features(0)
        self.use_table(MemoryTable())


def log_reach(log: DirtyLog) -> int:
    """One past the last guest-physical address that has a bit in the log."""
    return log.size * 8 * PAGE_SIZE


def check_reach(reach: int, end: int) -> None:
    """Raises `FrontendError` when a log that ends at ``reach`` does not cover memory to ``end``."""
    if end > reach:
        raise FrontendError(f"guest memory ends at {end:#x}, and the log at {reach:#x}")
