"""A back-end device: its memory, its rings, and the thread that serves them.

All of it runs in the device's loop, control messages and kicks alike, so a ring can be stopped
between two requests without a lock. What a front-end says reaches this class through
`backends.control`; what the device does with a request is its subclass's affair.
"""

from __future__ import annotations

import logging
import os
from functools import partial
from typing import TYPE_CHECKING

from backends import offer, stats
from backends.polling import Polling
from backends.refusals import Refusals
from backends.ring_host import RingHost
from vhost_user.errors import FrontendError

if TYPE_CHECKING:
    from collections.abc import Callable

    from backends.loop import Loop
    from backends.ring import Ring
    from vhost_user.messages import Request
    from vhost_user.virtqueue import DeviceQueue

log = logging.getLogger("backends")

#: Requests that are served in one look at a ring. A driver that never stops adding some keeps
#: neither the other rings nor the control socket waiting.
BUDGET = 16


class BackendDevice(RingHost):
    """What all back-end devices have in common.

    Args:
        name: what errors and tables call it.
        loop: the loop that serves it.
        rings: how many rings it has.
        counters: its u64 slots in the statistics (`backends.stats`).

    Attributes:
        kind: the device's type in the words of QEMU's back-end description files.
        features: the feature bits it offers.
        protocol_features: the protocol features it offers.
        status: the device status that the driver sees (virtio 1.3, 2.1), as SET_STATUS left it.
        on_idle: called with a ring that is stopping and has nothing in flight any more.
        on_config_change: called when the configuration space has changed.
        on_start: called when a ring was started.
    """

    kind = ""

    def __init__(
        self, name: str, loop: Loop, rings: int, counters: memoryview | None = None
    ) -> None:
        super().__init__(name, loop, rings, counters)
        self.features = offer.FEATURES
        self.protocol_features = offer.protocol_features()
        self.status = 0
        self.on_idle: Callable[[Ring], None] | None = None
        self.on_config_change: Callable[[], None] | None = None
        self.on_start: Callable[[], None] | None = None
        self._active = 0
        self._refusals = Refusals(name, loop, self.look)
        self._polling = Polling(loop, self.rings, self.look)

    # What a subclass is

    @property
    def queue_num(self) -> int:
        """The answer to GET_QUEUE_NUM: rings, or pairs of them for a network device."""
        return len(self.rings)

    def process(self, ring: Ring, queue: DeviceQueue) -> bool:
        """Serve what the driver made available in an active ring, `BUDGET` requests at the most.

        Returns:
            True when there may be more, so that the ring has to be looked at again.

        Raises:
            FrontendError: the driver broke the ring's or the device's rules.
        """
        del ring
        return queue.arm()

    def discard(self, ring: Ring) -> None:
        """A kick of a ring that is started but disabled: nothing may come of it."""

    def acquire(self) -> str | None:
        """The first ring is about to be active: get what the device may not share.

        Returns:
            None, or why it cannot be had; the ring is then not started, and this is asked again
            before long.
        """
        return None

    def release(self) -> None:
        """No ring is active any more: give back what `acquire` got."""

    def extra_handlers(self) -> dict[int, Callable[[Request], None]]:
        """Messages that only this kind of device serves: id to what handles it.

        A handler may raise `FrontendError` to refuse.
        """
        return {}

    def read_config(self, offset: int, size: int) -> bytes | None:
        """A part of the configuration space, or None where there is none."""
        del offset, size
        return None

    def refresh(self) -> None:
        """Look again at what lies behind the device, which may have changed."""

    def config_changed(self) -> None:
        """The configuration space is another one from now on: tell the front-end."""
        if self.on_config_change is not None:
            self.on_config_change()

    def close(self) -> None:
        """Let go of everything; the loop has ended or will not call any more."""
        self.reset()
        self.tidy()
        self.forget_memory()

    # Rings as the front-end sets them up

    def set_base(self, ring: Ring, base: int) -> None:
        """The ring goes on from an available index."""
        ring.base = base
        ring.broken = False
        if ring.queue is not None:
            self.rebuild(ring, base)

    def set_kick(self, ring: Ring, fd: int) -> None:
        """The ring has a new kick; -1 has it polled instead.

        Raises:
            FrontendError: the descriptor cannot be waited for.
        """
        if ring.kick_fd >= 0:
            self.loop.mute_kick(ring.kick_fd)
            self._retired_kicks.append(ring.kick_fd)
            ring.kick_fd = -1
            self.tidy_later()
        ring.polled = fd < 0
        if fd < 0:
            self._start(ring)
            self._polling.begin()
            return
        try:
            os.set_blocking(fd, False)
            self.loop.watch_kick(fd, partial(self._kicked, ring))
        except OSError as error:
            self.retire_fds([fd])
            raise FrontendError(f"cannot wait for this kick: {error}", ring=ring.index) from error
        ring.kick_fd = fd

    def remap(self) -> None:
        """The memory table has changed: find the rings again, or let them rest if they are gone."""
        for ring in self.rings:
            if ring.queue is not None:
                try:
                    self.rebuild(ring)
                except FrontendError:
                    # What is in flight still holds its memory, and is given back there.
                    if ring.in_flight:
                        ring.adrift = True
                    else:
                        self._retire(ring)

    # A ring's life

    def look(self, ring: Ring) -> None:
        """Serve the ring if it is started, enabled and configured."""
        if not ring.started or not ring.enabled or ring.broken or ring.adrift:
            return
        queue = ring.queue
        if queue is None:
            queue = self.activate(ring)
            if queue is None:
                return
        try:
            # No base can tell of them: they are taken before the ring can be stopped.
            while queue.owed:
                self.process(ring, queue)
            if self.process(ring, queue):
                self.loop.again(partial(self.look, ring))
        except FrontendError as error:
            self.fail(ring, error)

    def drain(self, ring: Ring) -> None:
        """Take all that the driver has made available up to now."""
        queue = ring.queue
        if queue is None or not ring.enabled or ring.broken or ring.adrift:
            return
        try:
            for _ in range(0, ring.size, BUDGET):
                if not self.process(ring, queue):
                    return
        except FrontendError as error:
            self.fail(ring, error)

    def stop(self, ring: Ring) -> int:
        """Stop a ring with nothing in flight; returns its base.

        Its descriptors and views stay until `tidy`.
        """
        self.halt(ring)
        ring.stopping = False
        if ring.queue is not None:
            self._retire(ring)
        else:
            self._refusals.forget(ring)
        if ring.call_fd >= 0:
            self.retire_fds([ring.call_fd])
            ring.call_fd = -1
        return ring.base

    def halt(self, ring: Ring) -> None:
        """Take nothing more from the ring; what is in flight may still be completed."""
        if ring.started:
            ring.started = ring.polled = False
            self.counters[stats.RING_STOPS] += 1
        fd = ring.kick_fd
        if fd >= 0:
            self.loop.mute_kick(fd)
            self._retired_kicks.append(fd)
            ring.kick_fd = -1
            self.tidy_later()

    def reset(self, *, keep_bases: bool = False) -> None:
        """The status and all rings back to their initial state; nothing may be in flight.

        Args:
            keep_bases: rings can still be asked where they were stopped.
        """
        self.status = 0
        for ring in self.rings:
            base = self.stop(ring)
            self.set_err(ring, -1)
            ring.forget()
            if keep_bases:
                ring.base = base

    def completed(self, ring: Ring, head: int, written: int) -> None:
        """A request that was served elsewhere is done; belongs to the loop's thread."""
        queue = ring.queue
        try:
            if queue is not None:
                queue.push(head, written)
                if queue.publish():
                    self.call(ring)
        except FrontendError as error:
            self.fail(ring, error)
        self.ended(ring)

    def ended(self, ring: Ring) -> None:
        """A request is not in flight any more, whether it was completed or could not be."""
        ring.in_flight -= 1
        if ring.in_flight:
            return
        if ring.adrift:
            ring.adrift = False
            self._retire(ring)
            self.look(ring)  # its memory is not back, or it would not be adrift: it says so
        if ring.stopping and self.on_idle is not None:
            self.on_idle(ring)

    def call(self, ring: Ring) -> None:
        """Interrupt the driver."""
        self.counters[stats.CALLS] += 1
        ring.call()

    def fail(self, ring: Ring, error: FrontendError) -> None:
        """The driver broke the ring: signal it, say so, and leave the ring alone."""
        ring.broken = True
        self.counters[stats.ERRORS] += 1
        log.error("%s: ring %d: %s", self.name, ring.index, error.text)
        ring.fail()

    def _kicked(self, ring: Ring) -> None:
        try:
            os.read(ring.kick_fd, 8)
        except BlockingIOError:
            return  # the front-end took it back
        self.counters[stats.KICKS] += 1
        if not ring.started:
            self._start(ring)
        if ring.enabled:
            self.look(ring)
        else:
            self.discard(ring)

    def _start(self, ring: Ring) -> None:
        ring.started = True
        self.counters[stats.RING_STARTS] += 1
        if self.on_start is not None:
            self.on_start()

    def activate(self, ring: Ring) -> DeviceQueue | None:
        """Begin to use a ring that is started; None if that cannot be (yet)."""
        if ring.addr is None or not ring.size or ring.in_flight:
            return None
        if not self._active:
            refusal = self.acquire()
            if refusal is not None:
                self._refusals.refuse(ring, refusal)
                return None
        self._active += 1
        try:
            queue = self.build(ring)
            queue.resume()
        except FrontendError as error:
            ring.queue = None
            self._rest()
            self._cannot_map(ring, error)
            return None
        return queue

    def _cannot_map(self, ring: Ring, error: FrontendError) -> None:
        """The ring's memory is not there; it may come yet, so the ring only rests."""
        if ring.unmapped != self.memory.generation:
            ring.unmapped = self.memory.generation
            log.warning("%s: ring %d rests: %s", self.name, ring.index, error.text)
            ring.fail()

    def _retire(self, ring: Ring) -> None:
        queue = ring.queue
        if queue is not None:
            ring.base = queue.last_avail
            ring.queue = None
            self._retired_queues.append(queue)
            self._rest()

    def _rest(self) -> None:
        self._active -= 1
        if not self._active:
            self.release()
