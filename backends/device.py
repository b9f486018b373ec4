"""A vhost-user back-end device: the rings and the guest memory of a device of any class.

It is set up by messages (`backends.handlers`, `backends.stops`, `backends.postcopy`); what the
device does with a request is up to its `VirtioDevice`.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from backends.active_rings import ActiveRings
from backends.deferred_close import DeferredClose
from backends.guest_memory import GuestMemory, check_reach, log_reach
from backends.io_pool import IoPool
from backends.ring import Ring, RingContext
from vhost_user.errors import FrontendError
from vhost_user.features import VHOST_USER_F_PROTOCOL_FEATURES
from vhost_user.payloads import MAX_CONFIG

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backends.observer import DeviceObserver
    from backends.virtio_device import VirtioDevice
    from vhost_user.dirty_log import DirtyLog
    from vhost_user.inflight import InflightRegion
    from vhost_user.memory import MemoryTable


class BackendDevice:
    """A device as its front-end sees it.

    Args:
        virtio: the device's class-specific half.
        observer: receives the device's events.

    Attributes:
        virtio: the argument.
        name, loop, counters, features, protocol_features: of `virtio`.
        rings: its rings.
        guest: guest memory.
        status: the device status that the driver sees (virtio 1.3, 2.1), as SET_STATUS left it.
    """

    def __init__(self, virtio: VirtioDevice, observer: DeviceObserver) -> None:
        self.virtio = virtio
        self.name = virtio.name
        self.loop = virtio.loop
        virtio.observer = observer
        self.counters = virtio.counters
        self.features = virtio.features
        self.protocol_features = virtio.protocol_features
        self.status = 0
        self.guest = GuestMemory()
        self.loop.on_loss(self.guest.check)
        self._observer = observer
        self._closer = DeferredClose(self.loop)
        self._page_waits = IoPool()
        context = RingContext(
            self.name,
            self.loop,
            self.counters,
            virtio,
            self.guest,
            ActiveRings(virtio, self.loop),
            self._page_waits,
            self._closer,
            observer,
        )
        self.rings = [Ring(index, context) for index in range(virtio.num_rings)]
        virtio.attach(self.rings, observer)

    @property
    def memory(self) -> MemoryTable:
        """The memory table."""
        return self.guest.table

    @property
    def running(self) -> bool:
        """A ring is started."""
        return any(ring.started for ring in self.rings)

    @property
    def busy(self) -> bool:
        """A request is in flight."""
        return any(ring.in_flight for ring in self.rings)

    def set_status(self, status: int) -> None:
        """SET_STATUS, except for a status of 0, which is a reset."""
        self.status = status

    def set_features(self, acked: int) -> None:
        """SET_FEATURES; rings that run continue with these.

        Raises:
            FrontendError: they begin to log, and the log does not cover guest memory.
        """
        self.check_log(acked, self.memory.end)
        generation = self.guest.generation
        self.guest.set_features(acked)
        if self.guest.generation != generation:
            self.remap()  # a ring may run since before the first SET_FEATURES
        if not acked >> VHOST_USER_F_PROTOCOL_FEATURES & 1:
            for ring in self.rings:
                ring.enable()
        self._apply_log()
        self.virtio.features_acked(acked)

    def set_log(self, log: DirtyLog) -> None:
        """SET_LOG_BASE: writes are marked in this log from now on.

        Raises:
            FrontendError: it does not cover guest memory, or a used ring that is to be logged.
        """
        reach = log_reach(log)
        try:
            check_reach(reach, self.memory.end)
            for ring in self.rings:
                if ring.started:
                    ring.memory.check_used_log(reach)
        except FrontendError:
            log.close()
            raise
        self.guest.set_log(log)
        self._apply_log()

    def check_log(self, acked: int, end: int) -> None:
        """Check that rings that run may go on logging, with these features and memory to ``end``.

        A log may be left over from before the memory grew, which is harmless while no ring is
        started: QEMU sends a new one after the memory table when it starts a device.

        Raises:
            FrontendError: the log does not cover guest memory.
        """
        if self.running:
            self.guest.check_log(acked, end)

    def _apply_log(self) -> None:
        for ring in self.rings:
            ring.apply_log()

    def set_inflight(self, region: InflightRegion) -> None:
        """SET_INFLIGHT_FD: rings that start from now on record there what they take.

        They begin with the requests that are recorded there already.
        """
        self.guest.set_inflight(region)

    def use_table(self, table: MemoryTable) -> None:
        """Guest memory is in this table from now on, which is still empty."""
        self.guest.use_table(table)

    def remap(self) -> None:
        """Guest memory has changed: find the rings there again."""
        for ring in self.rings:
            ring.remap()

    def read_config(self, offset: int, size: int) -> bytes | None:
        """A part of the configuration space; None beyond its 256 bytes, or where there is none."""
        config = self.virtio.config()
        if config is None or offset + size > MAX_CONFIG:
            return None
        return config.ljust(MAX_CONFIG, b"\0")[offset : offset + size]

    def refresh(self) -> None:
        """Read the properties of what is behind the device again."""
        if self.virtio.refresh():
            self._observer.config_changed()

    def begin_stop(self) -> None:
        """Take no more requests; `reset` follows when none is in flight."""
        with ExitStack() as steps:  # each ring stops, whatever another one raises
            for ring in self.rings:
                steps.callback(ring.begin_stop)

    def reset(self, *, keep_bases: bool = False) -> None:
        """Return the status and all rings to their initial state; no request may be in flight.

        Args:
            keep_bases: GET_VRING_BASE still returns where the rings were stopped.
        """
        self.status = 0
        for ring in self.rings:
            ring.reset(keep_base=keep_bases)

    def disconnect(self) -> None:
        """Reset, and drop guest memory: the front-end has disconnected.

        Raises:
            Exception: a step has raised it; the others have been done.
        """
        with ExitStack() as steps:  # the last one is called first
            steps.callback(self.virtio.disconnected)
            for ring in self.rings:
                steps.callback(ring.release_memory)
            steps.callback(self.guest.forget)
            for ring in self.rings:
                steps.callback(ring.reset)
            self.status = 0

    def close_later(self, fds: Sequence[int]) -> None:
        """Close descriptors when the front-end does not wait for a reply any more."""
        self._closer.add_fds(fds)

    def close_now(self) -> None:
        """Close the descriptors and release the memory of rings that were stopped."""
        self._closer.run()

    def close(self) -> None:
        """Release everything; the loop has ended."""
        self.disconnect()
        self._closer.run()
        self._page_waits.close()
        self.virtio.close()
