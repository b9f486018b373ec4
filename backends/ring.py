"""One vring of a back-end device: its set-up, when it is served, and its completions.

The thread of the device's loop handles messages and kicks, and is the only one that changes a ring;
other threads post callbacks to the loop. So a ring can be stopped between two requests without a
lock.
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Protocol

from backends import stats
from backends.idle_kicks import IdleKicks
from backends.isolation import Contained, GuardedLoop, Part, contain
from backends.limits import BUDGET
from backends.ring_memory import RingMemory
from vhost_user import eventfd
from vhost_user.errors import FrontendError
from vhost_user.mapping import LostMemoryError
from vhost_user.postcopy import PagesMissing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from backends.active_rings import ActiveRings
    from backends.deferred_close import DeferredClose
    from backends.guest_memory import GuestMemory
    from backends.io_pool import IoPool
    from backends.loop import Timer
    from backends.observer import DeviceObserver
    from vhost_user.virtqueue import DeviceQueue
    from vhost_user.virtqueue.batch import Batch

log = logging.getLogger("backends")

#: Nanoseconds between two polls of a ring without a kick descriptor, or with a useless one.
POLL_NS = 1_000_000


class RingDevice(Part, Protocol):
    """The methods of a device that its rings call; see `backends.virtio_device.VirtioDevice`."""

    def process(self, ring: Ring, queue: DeviceQueue, /) -> bool:
        """Serve requests; True when there may be more."""

    def discard(self, ring: Ring, /) -> None:
        """Called when a started ring is kicked while it is disabled.

        It must not serve requests then. If it has more to discard, it calls `Ring.schedule`.
        """

    def stopping(self, ring: Ring, /) -> None:
        """Called when the ring stops."""


class RingContext(NamedTuple):
    """What the rings of a device share.

    Attributes:
        name: the device's name.
        loop: the loop that serves the device.
        counters: the device's counters.
        device: serves the requests.
        guest: guest memory.
        active_rings: counts the active rings; acquires the device's resource
            (`backends.active_rings`) for the first one, and releases it after the last one.
        page_waits: the threads that wait for pages of guest memory.
        closer: closes descriptors and releases queues after a delay, so that a blackout does not
            include that work.
        observer: receives the rings' events.
    """

    name: str
    loop: GuardedLoop
    counters: memoryview
    device: RingDevice
    guest: GuestMemory
    active_rings: ActiveRings
    page_waits: IoPool
    closer: DeferredClose
    observer: DeviceObserver


class Leftovers:
    """What rings of one device leave when they stop.

    Attributes:
        kicks, calls: their descriptors.
        queues: the queues of those that were active.
        started: how many of them were started.
    """

    __slots__ = ("calls", "kicks", "queues", "started")

    def __init__(self) -> None:
        self.kicks: list[int] = []
        self.calls: list[int] = []
        self.queues: list[DeviceQueue] = []
        self.started = 0


class Ring:
    """One vring of a back-end device, which is a `backends.isolation.Part`.

    Started and enabled are independent (vhost-user specification, "Ring states"): a kick starts
    a ring, GET_VRING_BASE stops it. A ring is served once it is also *configured*: it has a size
    and addresses, which may come before or after its kick descriptor.

    Attributes:
        index: its number in the device.
        name: the device and the number, for errors.
        parent: the device, which fails if `fail` raises an exception.
        memory: its size and addresses.
        base: the available index to continue from when the ring becomes active. While it is
            active, `DeviceQueue.last_avail` of the queue is the current one.
        started: a kick arrived since the last stop, or the ring is polled.
        enabled: by SET_VRING_ENABLE, or by SET_FEATURES without VHOST_USER_F_PROTOCOL_FEATURES.
        queue: the device's side of the ring while it is active, otherwise None. A ring becomes
            active when it is first served after its start, or its requests are first discarded;
            it stays active while it is disabled.
        in_flight: requests popped and not completed yet.
        stopping: it takes no more requests; GET_VRING_BASE waits for those in flight.
        broken: the ring has failed: the driver broke its rules, the kick or call descriptor cannot
            be used, or serving it has raised an exception. It is not served until it is set up
            again.
        unmapped: its memory was removed, or is missing in a postcopy, with requests in flight: it
            takes no more requests, and becomes inactive when they have completed.
        log_mark: marks guest memory (address, length) as written to; None while nothing is logged.
        contained: a context manager: an exception in the ``with`` block fails the ring, and is not
            propagated.
        check_memory: raises `LostMemoryError` when what was read may not be what the guest wrote;
            see `GuestMemory.check`.
    """

    __slots__ = (
        "_active_rings",
        "_awaiting",
        "_call_fd",
        "_closer",
        "_completions",
        "_counters",
        "_device",
        "_err_fd",
        "_guest",
        "_idle_kicks",
        "_kick_fd",
        "_loop",
        "_observer",
        "_page_waits",
        "_poll_timer",
        "_polled",
        "_reported_generation",
        "_resubmitting",
        "base",
        "broken",
        "check_memory",
        "contained",
        "enabled",
        "in_flight",
        "index",
        "log_mark",
        "memory",
        "name",
        "parent",
        "queue",
        "started",
        "stopping",
        "unmapped",
    )

    def __init__(self, index: int, context: RingContext) -> None:
        self.index = index
        self.name = f"{context.name}: ring {index}"
        self.parent: Part = context.device
        self._loop = context.loop.guarded(self)
        self._completions = context.loop.guarded(_Completion(self))
        self.contained = Contained(self)
        self._counters = context.counters
        self._device = context.device
        self._guest = context.guest
        self.check_memory = context.guest.check
        self.memory = RingMemory(index, context.guest, context.name)
        self._active_rings = context.active_rings
        self._page_waits = context.page_waits
        self._awaiting = False  # a thread waits for pages that the ring needs
        self._closer = context.closer
        self._observer = context.observer
        self._kick_fd = -1
        self._idle_kicks = IdleKicks()
        self._call_fd = -1
        self._err_fd = -1
        self._poll_timer: Timer | None = None
        self.in_flight = 0
        self.log_mark: Callable[[int, int], None] | None = None
        self._reset_state()

    def _reset_state(self) -> None:
        """Make the ring stopped, disabled and not configured; its file descriptors are kept."""
        self.memory.forget()
        self.base = 0
        self.queue: DeviceQueue | None = None
        self.started = False
        self.enabled = False
        self.stopping = False
        self.broken = False
        self.unmapped = False
        self._polled = self._resubmitting = False
        # The generation of guest memory in which `_report_not_served` has reported the ring.
        self._reported_generation: int | None = None

    @property
    def losses(self) -> int:
        """See `GuestMemory.losses`."""
        return self._guest.losses

    @property
    def active(self) -> bool:
        """Whether it has a queue; see `queue`."""
        return self.queue is not None

    # Set-up by the front-end

    def set_size(self, size: int) -> None:
        """SET_VRING_NUM; see `RingMemory.set_size`."""
        self.memory.set_size(size, active=self.active)

    def set_addr(self, addr: tuple[int, ...]) -> None:
        """SET_VRING_ADDR; ``addr`` has the fields of a `VringAddr`.

        Raises:
            FrontendError: an address is not aligned, or is not in guest memory; or the log does not
                cover the used ring.
        """
        self.memory.set_addr(addr)
        self.broken = False
        if self.queue is not None:
            self._rebuild()
        else:
            self.memory.map_early()

    def set_base(self, base: int) -> None:
        """SET_VRING_BASE: continue from an available index.

        Raises:
            FrontendError: the ring is active, and its addresses are not in guest memory any more.
        """
        self.base = base
        self.broken = False
        if self.queue is not None:
            self._rebuild(base)

    def set_kick(self, fd: int) -> None:
        """SET_VRING_KICK; with -1 the ring is polled instead.

        A kick that is pending on the replaced descriptor is not lost.

        Raises:
            FrontendError: epoll does not accept the descriptor.
        """
        with suppress(OSError):  # the old descriptor is dropped in any case
            if self._kick_fd >= 0 and eventfd.take(self._kick_fd):
                self._count_kick()
                self.schedule()
        self._drop_kick()
        self._polled = fd < 0
        if fd < 0:
            self._start()
            self._poll_later()
            return
        try:
            self._loop.watch_kick(fd, self._kicked)
        except OSError as error:
            self._closer.add_fds([fd])
            text = f"epoll does not accept the kick descriptor: {error.strerror}"
            raise FrontendError(text, ring=self.index) from error
        self._kick_fd = fd

    def set_call(self, fd: int) -> None:
        """SET_VRING_CALL; with -1 the driver polls."""
        if self._call_fd >= 0:
            self._closer.add_fds([self._call_fd])
        self._call_fd = fd
        if self.queue is not None:
            # Requests that completed without a call descriptor did not interrupt the driver.
            self._signal_call()

    def set_err(self, fd: int) -> None:
        """SET_VRING_ERR; -1 removes the descriptor."""
        if self._err_fd >= 0:
            self._closer.add_fds([self._err_fd])
        self._err_fd = fd

    def enable(self, *, on: bool = True) -> None:
        """SET_VRING_ENABLE, or SET_FEATURES without VHOST_USER_F_PROTOCOL_FEATURES."""
        self.enabled = on

    def apply_log(self) -> None:
        """Log writes as the features and the log now require; called when one of them changes."""
        self.log_mark = self._guest.log_mark
        if self.queue is not None:
            self.memory.log_used_ring(self.queue)

    def remap(self) -> None:
        """Translate the addresses again in changed guest memory; become inactive if that fails."""
        if self.queue is None:
            return
        try:
            self._rebuild()
        except FrontendError:
            # Requests in flight still use the memory; it is released when they complete.
            if self.in_flight:
                self.unmapped = True
            else:
                self._deactivate()

    def release_memory(self) -> None:
        """Release the mappings of guest memory and of the log."""
        self.memory.unmap()
        self.log_mark = None

    # While it runs

    def poll(self) -> None:
        """Serve the ring if it is started, enabled and configured; raises nothing."""
        if not self.started or not self.enabled or self.broken or self.unmapped:
            return
        try:
            queue = self.queue
            if queue is None:
                queue = self.activate()
                if queue is None:
                    return
            if queue.to_resubmit:
                self._begin_resubmission()
            elif self._device.process(self, queue):
                self._loop.again(self.poll)
        except Exception as error:  # noqa: BLE001  as `contained`, for less
            contain(self, error)

    def drain(self) -> None:
        """Serve all requests that the driver has made available so far."""
        queue = self.queue
        if queue is None or not self.enabled or self.broken or self.unmapped:
            return
        with self.contained:
            for _ in range(0, self.memory.size, BUDGET):
                if not self._device.process(self, queue):
                    return

    def _begin_resubmission(self) -> None:
        """Serve the requests of the inflight region, some in each turn of the loop.

        Their available indices are before the base. The reply to a stop consists of the base only,
        so a stop between two of these requests would lose the rest. Therefore all of them together
        count as one request in flight, and a stop waits for it.
        """
        if not self._resubmitting:
            self._resubmitting = True
            self.begin_async()
            self._resubmit()

    def _resubmit(self) -> None:
        queue = self.queue
        with self.contained:
            if queue is not None and queue.to_resubmit and not self.broken and not self.unmapped:
                self._device.process(self, queue)
                if queue.to_resubmit:
                    self._completions.again(self._resubmit)
                    return
            self.schedule()
        self._resubmitting = False
        self.end_async()

    def begin_async(self, count: int = 1) -> None:
        """Count popped requests that are served later, until `complete`, `abort` or `end_async`."""
        self.in_flight += count

    def complete(self, head: int, written: int) -> None:
        """Complete a request that another thread has served; see `post_completion`."""
        queue = self.queue
        with self.contained:
            if queue is not None:
                queue.push(head, written)
                if queue.publish():
                    self.interrupt()
        self.end_async()

    def abort(self, error: Exception, count: int = 1) -> None:
        """End requests that another thread could not serve; see `post_completion`."""
        contain(self, error)
        self.end_async(count)

    def post_completion(self, callback: Callable[[], None]) -> None:
        """From any thread: have the loop's thread call `complete` or `abort`, in ``callback``.

        The request has ended even where the callback raises: a stop does not wait for it.
        """
        self._completions.post(callback)

    def lend(self) -> Batch | None:
        """The ring for a compiled function, until `Batch.end`; None where there is none for it."""
        queue = self.queue
        batch = None if queue is None else queue.batch()
        if batch is None:
            return None
        guest = self._guest
        lent = batch.begin(
            guest.losses,
            guest.log,
            log_buffers=self.log_mark is not None,
            call=self._call_fd,
            events=self._loop.base.events,
        )
        return batch if lent else None

    def interrupt(self) -> None:
        """Interrupt the driver."""
        self._counters[stats.CALLS] += 1
        self._signal_call()

    def fail(self, error: Exception) -> None:
        """Do not serve the ring until it is set up again, and signal its error descriptor.

        Pages that are missing in a postcopy are no failure: the ring is tried again when they have
        arrived.
        """
        if isinstance(error, PagesMissing):
            self.wait_for(error)
            return
        first, self.broken = not self.broken, True
        self._counters[stats.ERRORS] += 1
        try:
            self.check_memory()
        except LostMemoryError:
            return  # not the driver's mistake: `Loop.on_loss` fails the device after this turn
        if first:
            self._observer.ring_failed(self.index, error)
            self.signal_error()
        else:
            # It failed again, without a set-up in between. Serving the kick may fail each time.
            self._drop_kick()

    def wait_for(self, missing: PagesMissing) -> None:
        """Try the ring again when these pages have arrived; another thread waits for them."""
        if not self._awaiting:
            self._page_waits.submit(partial(self._await, missing), self._await_failed)
            self._awaiting = True

    def _await(self, missing: PagesMissing) -> None:
        """In a thread of the pool: wait for the pages, then have the ring tried again."""
        missing.wait()
        self._loop.post(self._pages_arrived)

    def _await_failed(self, _error: Exception) -> None:
        """In a thread of the pool: try the ring, which waits again if pages are missing."""
        self._loop.post(self._pages_arrived)

    def _pages_arrived(self) -> None:
        self._awaiting = False
        self._serve_or_discard()

    def schedule(self) -> None:
        """In the next turn of the loop, serve the ring, or discard its requests if disabled."""
        self._loop.again(self._serve_or_discard)

    def _serve_or_discard(self) -> None:
        if self.enabled:
            self.poll()
        elif self.started:
            self._device.discard(self)

    def signal_error(self) -> None:
        """Signal the error descriptor; one that cannot be signalled is dropped."""
        try:
            _signal(self._err_fd)
        except OSError as error:
            self.set_err(-1)
            log.warning("%s: its error descriptor is dropped: %s", self.name, error.strerror)

    def activate(self) -> DeviceQueue | None:
        """Make a started ring active; None if that is not possible, or not yet.

        Raises:
            PagesMissing: pages of the ring have not arrived.
        """
        if not self.memory.configured or self.in_flight:
            return None
        if not self._active_rings.enter(self):
            return None
        try:
            queue = self._build()
            queue.resume()
        except Exception as error:
            self.queue = None
            self._active_rings.leave()
            if not isinstance(error, FrontendError):
                raise
            self._report_not_served(error)
            return None
        return queue

    # Stopping

    def begin_stop(self) -> None:
        """Take no more requests; `stop` follows when none is in flight."""
        left = Leftovers()
        self._halt(left)
        self.release(left)
        self.stopping = True

    def stop(self) -> int:
        """Stop; returns the base. No request may be in flight.

        The kick and call descriptors are closed later.
        """
        return stop_all((self,))[0]

    def stop_and_keep(self, left: Leftovers) -> int:
        """`stop`, except for what the ring leaves: that is added to ``left``, for `release`."""
        self._halt(left)
        self.stopping = False
        queue = self.queue
        if queue is None:
            self._active_rings.forget(self)
        else:
            self.base = queue.last_avail
            self.queue = None
            left.queues.append(queue)
        if self._call_fd >= 0:
            left.calls.append(self._call_fd)
            self._call_fd = -1
        return self.base

    def _halt(self, left: Leftovers) -> None:
        """Take no more requests; those in flight may still complete."""
        try:
            self._device.stopping(self)
        except Exception as error:  # noqa: BLE001  the ring stops, whatever the device raises
            contain(self, error)
        if self.started:
            self.started = self._polled = False
            left.started += 1
        if self._kick_fd >= 0:
            left.kicks.append(self._kick_fd)
            self._kick_fd = -1

    def release(self, left: Leftovers) -> None:
        """Count rings of this device as stopped, and close later what they have left."""
        if left.started:
            self._counters[stats.RING_STOPS] += left.started
        if left.kicks:
            self._closer.add_kicks(left.kicks)
        if left.calls:
            self._closer.add_fds(left.calls)
        if left.queues:
            self._closer.add_queues(left.queues)
            self._active_rings.leave(len(left.queues))

    def reset(self, *, keep_base: bool = False) -> None:
        """Stop and set the initial state; no request may be in flight.

        Args:
            keep_base: keep the base of this stop for a later GET_VRING_BASE.
        """
        base = self.stop()
        self.set_err(-1)
        self._reset_state()
        if keep_base:
            self.base = base

    # Internal

    def _start(self) -> None:
        """Mark the ring as started, by its first kick or because it is polled."""
        self.started = True
        self._counters[stats.RING_STARTS] += 1
        self._observer.ring_started(self.index)

    def _kicked(self) -> None:
        try:
            if not eventfd.take(self._kick_fd):
                return  # the front-end has read the eventfd itself
        except OSError as error:
            # The loop would find the descriptor ready in each turn.
            self._drop_kick()
            raise FrontendError(f"the kick descriptor cannot be read: {error.strerror}") from error
        self._count_kick()
        self._serve_or_discard()
        position = None if self.queue is None else self.queue.last_avail
        if self._idle_kicks.too_many(position, self.memory.size):
            self._poll_instead()

    def _poll_instead(self) -> None:
        """Poll the ring from now on: its kicks bring no requests, and would come for ever."""
        log.warning("%s is polled: its kicks bring no requests", self.name)
        self._drop_kick()
        self._polled = True
        self._poll_later()

    def _count_kick(self) -> None:
        self._counters[stats.KICKS] += 1
        if not self.started:
            self._start()

    def _drop_kick(self) -> None:
        """Ignore the kick descriptor from now on, and close it later."""
        if self._kick_fd >= 0:
            self._closer.add_kicks((self._kick_fd,))
            self._kick_fd = -1

    def _poll_later(self) -> None:
        if self._poll_timer is None:
            self._poll_timer = self._loop.at(time.monotonic_ns() + POLL_NS, self._poll_by_timer)

    def _poll_by_timer(self) -> None:
        self._poll_timer = None
        if self._polled:
            self._serve_or_discard()
            self._poll_later()

    def end_async(self, count: int = 1) -> None:
        """Requests of `begin_async` have ended."""
        self.in_flight -= count
        if self.in_flight:
            return
        with Contained(self._device):  # the request has ended, whatever this raises
            if self.unmapped:
                self.unmapped = False
                self._deactivate()
                self.poll()  # tries to serve it in the current memory, or logs why it cannot
            if self.stopping:
                self._observer.ring_idle(self.index)

    def _build(self) -> DeviceQueue:
        """Make the queue, from the ring's base on.

        Raises:
            FrontendError: the ring cannot be used with its size, addresses and inflight region.
            PagesMissing: pages of the ring have not arrived.
        """
        self.queue = self.memory.queue(self.base, self.queue)
        self.unmapped = False
        return self.queue

    def _rebuild(self, base: int | None = None) -> None:
        """Make the queue of an active ring again, with its current addresses.

        Args:
            base: the available index to continue from; by default the queue's.

        Raises:
            FrontendError: an address is not aligned, or is not in guest memory.
        """
        queue = self.queue
        if queue is not None:
            # The new queue reads the used index from memory, so everything must be published.
            if queue.publish():
                self._signal_call()
            self.base = base = queue.last_avail if base is None else base
            try:
                self._build()
            except PagesMissing as missing:
                if self.in_flight:
                    self.unmapped = True
                else:
                    self._deactivate()
                    self.base = base
                self.wait_for(missing)

    def _report_not_served(self, error: FrontendError) -> None:
        """Log why the ring cannot be served, once for each change of guest memory.

        The ring stays started, and the next `poll` tries it again.
        """
        generation = self._guest.generation
        if self._reported_generation != generation:
            self._reported_generation = generation
            log.warning("%s is not served: %s", self.name, error.text)
            self.signal_error()

    def _signal_call(self) -> None:
        """Signal the call descriptor; if that is not possible, drop it, and the ring fails."""
        try:
            _signal(self._call_fd)
        except OSError as error:
            self._closer.add_fds([self._call_fd])
            self._call_fd = -1
            text = f"its call descriptor cannot be signalled: {error.strerror}"
            contain(self, FrontendError(text))

    def _deactivate(self) -> None:
        """Make the ring inactive; its base is the next available index of the queue."""
        queue = self.queue
        if queue is not None:
            self.base = queue.last_avail
            self.queue = None
            self._closer.add_queues((queue,))
            self._active_rings.leave()


def stop_all(rings: Sequence[Ring]) -> list[int]:
    """Stop rings of one device, as `Ring.stop` does; returns the base of each."""
    left = Leftovers()
    bases = [ring.stop_and_keep(left) for ring in rings]
    rings[0].release(left)
    return bases


class _Completion:
    """The `Part` of posted completions: if one raises an exception, its request is aborted."""

    def __init__(self, ring: Ring) -> None:
        self.name = ring.name
        self.parent = ring.parent
        self._ring = ring

    def fail(self, error: Exception) -> None:
        """See `Part.fail`."""
        self._ring.abort(error)


def _signal(fd: int) -> None:
    """Signal an eventfd, if there is one.

    Raises:
        OSError: it cannot be signalled.
    """
    if fd >= 0:
        eventfd.signal(fd)
