"""What a back-end knows of one vring: what it was told, and whether it may look at it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from vhost_user.errors import FrontendError
from vhost_user.virtqueue.layout import AVAIL_ALIGN, DESC_ALIGN, MAX_SIZE, USED_ALIGN, valid_size

if TYPE_CHECKING:
    from vhost_user.memory import MemoryTable
    from vhost_user.payloads import VringAddr
    from vhost_user.virtqueue import DeviceQueue


class RingViews(NamedTuple):
    """The three parts of a ring, mapped, and the memory table's generation they are from."""

    desc: memoryview
    avail: memoryview
    used: memoryview
    generation: int


class Ring:
    """One vring of a back-end device.

    Started and enabled are independent (vhost-user specification, "Ring states"): a kick starts
    a ring, GET_VRING_BASE stops it. Besides it must be *configured*, with a size and addresses,
    before it can be looked at; these may come before or after its kick descriptor.

    Attributes:
        index: its number in the device.
        size: entries, 0 until SET_VRING_NUM.
        base: the available index to go on from; the queue's own once there is one.
        addr: what SET_VRING_ADDR said, or None.
        views: the ring's memory, once it could be mapped.
        kick_fd: the kick's descriptor, -1 when there is none.
        call_fd: the call's descriptor, -1 when there is none or the driver polls.
        err_fd: the error's descriptor, -1 when there is none.
        started: a kick came since the last stop.
        enabled: SET_VRING_ENABLE, or features without protocol features.
        polled: it has no kick descriptor and is looked at by the clock.
        queue: the device's side of the ring while it is active: started, enabled, configured.
        in_flight: requests taken and not completed yet.
        stopping: it takes nothing more; GET_VRING_BASE waits for what is in flight.
        unmapped: the memory table's generation in which it was found not to be mapped, or -1.
        broken: the driver broke the ring's rules; nothing is taken until it is set up again.
        adrift: its memory was taken away while requests are in flight: nothing more is taken, and
            it rests when they are done.
    """

    __slots__ = (
        "addr",
        "adrift",
        "base",
        "broken",
        "call_fd",
        "enabled",
        "err_fd",
        "in_flight",
        "index",
        "kick_fd",
        "polled",
        "queue",
        "size",
        "started",
        "stopping",
        "unmapped",
        "views",
    )

    def __init__(self, index: int) -> None:
        self.index = index
        self.kick_fd = -1
        self.call_fd = -1
        self.err_fd = -1
        self.in_flight = 0
        self.forget()

    def forget(self) -> None:
        """Back to the initial state, but for descriptors: stopped, disabled, not configured."""
        self.size = 0
        self.base = 0
        self.addr: VringAddr | None = None
        self.views: RingViews | None = None
        self.queue: DeviceQueue | None = None
        self.started = False
        self.enabled = False
        self.polled = False
        self.stopping = False
        self.broken = False
        self.adrift = False
        self.unmapped = -1

    def resize(self, size: int) -> None:
        """SET_VRING_NUM.

        Raises:
            FrontendError: a split ring's size is a power of two, 32768 at the most; and it cannot
                change while the ring is looked at.
        """
        if not valid_size(size):
            raise FrontendError(f"size {size} is no power of two up to {MAX_SIZE}", ring=self.index)
        if self.queue is not None and size != self.size:
            raise FrontendError("size changed while the ring is running", ring=self.index)
        if size != self.size:
            self.size = size
            self.views = None

    def map(self, memory: MemoryTable, *, event_idx: bool) -> RingViews:
        """The ring's memory; found once, and again after the memory table has changed.

        With the event index each of the two rings is followed by an event field.

        Raises:
            FrontendError: an address is not aligned, or is not in the memory table.
        """
        views = self.views
        if views is not None and views.generation == memory.generation:
            return views
        addr, size = self.addr, self.size
        if addr is None or not size:
            raise FrontendError("the ring has no size or no addresses yet", ring=self.index)
        if addr.desc % DESC_ALIGN or addr.avail % AVAIL_ALIGN or addr.used % USED_ALIGN:
            raise FrontendError("an address of the ring is not aligned", ring=self.index)
        view, event = memory.user_view, 2 if event_idx else 0
        self.views = RingViews(
            view(addr.desc, 16 * size),
            view(addr.avail, 4 + 2 * size + event),
            view(addr.used, 4 + 8 * size + event),
            memory.generation,
        )
        return self.views

    def call(self) -> None:
        """Interrupt the driver."""
        if self.call_fd >= 0:
            try:
                os.eventfd_write(self.call_fd, 1)
            except BlockingIOError:
                return  # its counter is full: the interrupt is pending already

    def fail(self) -> None:
        """Signal the error descriptor."""
        if self.err_fd >= 0:
            try:
                os.eventfd_write(self.err_fd, 1)
            except BlockingIOError:
                return  # as in `call`
