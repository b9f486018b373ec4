"""The interface of a device class: its features, its configuration space, and its requests.

`backends.device.BackendDevice` is given such a device and does everything else: messages, rings,
memory, dirty log, inflight region, stops. All methods run in the thread of the device's loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from backends import advertised_features, stats
from backends.isolation import GuardedLoop
from backends.limits import BUDGET, requests_in
from vhost_user.virtio.ring_limits import ANY, RingLimits

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from backends.loop import Loop
    from backends.observer import DeviceObserver
    from backends.ring import Ring
    from vhost_user.features import ProtocolFeature
    from vhost_user.messages import Request
    from vhost_user.virtqueue import Chain, DeviceQueue


class VirtioDevice:
    """A device; a subclass serves requests in `serve`, or in `process` for full control.

    Args:
        name: name in messages and logs.
        loop: the loop that serves it.
        rings: number of rings.
        counters: its u64 slots in the statistics (`backends.stats`).

    Attributes:
        loop: the argument, guarded: an exception of what is called there closes the connection.
        observer: what serves the device; None until it is attached.
        features: the feature bits that it offers; a subclass adds its own.
        protocol_features: the protocol features that it offers; CONFIG is needed for `config`, and
            CONFIG and BACKEND_REQ for configuration changes.
        backend_type: the class's type in QEMU's docs/interop/vhost-user.json.
        ring_limits: how many rings a device of the class may have; other numbers are refused when
            the program starts.
    """

    backend_type: ClassVar[str] = "generic"
    ring_limits: ClassVar[RingLimits] = ANY

    def __init__(
        self, name: str, loop: Loop, rings: int, counters: memoryview | None = None
    ) -> None:
        self.name = name
        self.loop = GuardedLoop(loop, self)
        self.observer: DeviceObserver | None = None
        self.num_rings = rings
        self.counters = stats.StatsWriter(1).device(0) if counters is None else counters
        self.features = advertised_features.FEATURES
        self.protocol_features: ProtocolFeature = advertised_features.protocol_features()

    @property
    def queue_num(self) -> int:
        """The reply to GET_QUEUE_NUM: rings, or pairs of rings for a network device."""
        return self.num_rings

    def attach(self, rings: Sequence[Ring], observer: DeviceObserver) -> None:
        """The device has a server from now on; called once, before any other method."""

    @property
    def parent(self) -> None:
        """See `Part.parent`."""

    def fail(self, error: Exception) -> None:
        """An exception was raised while the device was served: its connection is closed.

        Raises:
            Exception: the argument, where no server has the device.
        """
        if self.observer is None:
            raise error
        self.observer.device_failed(error)

    # Requests

    def serve(self, ring: Ring, chain: Chain) -> int:
        """Serve one request, completely.

        Returns:
            The length for the used ring: how many bytes were written, from the beginning of
            ``chain.writable`` on. All of ``chain.writable`` is marked in the dirty log.

        Raises:
            FrontendError: the request breaks the device's rules; the ring is not served any more.
        """
        del ring, chain
        raise NotImplementedError(f"{type(self).__name__} has neither serve() nor process()")

    def process(self, ring: Ring, queue: DeviceQueue) -> bool:
        """Serve what the driver made available in an active ring, `BUDGET` requests at most.

        Each chain that is popped must be pushed: here, or later with `Ring.complete` after
        `Ring.begin_async` (by `Ring.post_completion`, from another thread). Writes to a chain's
        buffers are marked in the dirty log with `Ring.log_mark`, if it is not None. Before the
        return, `DeviceQueue.publish` shows the driver what was pushed, and the driver is
        interrupted if that returns True.

        Returns:
            True when there may be more requests, so that the ring has to be polled again; otherwise
            `DeviceQueue.arm` has asked for a kick.

        Raises:
            FrontendError: the driver broke the ring's or the device's rules.
        """
        pop, push, serve = queue.pop, queue.push, self.serve
        try:
            left = BUDGET
            while left > 0:
                chain = pop()
                if chain is None:
                    break
                left -= requests_in(chain)
                written = serve(ring, chain)
                ring.check_memory()
                mark = ring.log_mark
                if mark is not None:
                    for gpa, length in chain.writable_extents:
                        mark(gpa, length)
                self.counters[stats.REQUESTS] += 1
                push(chain.head, written)
        finally:
            if queue.publish():
                ring.interrupt()
        return chain is not None or queue.arm()

    def discard(self, ring: Ring) -> None:
        """A ring that is started but disabled was kicked: no request of it may be served."""

    def stopping(self, ring: Ring) -> None:
        """A ring stops: publish what was pushed and not published yet."""

    # The resource behind the device

    def acquire(self) -> str | None:
        """The first ring is about to be active: acquire what the device may not share.

        Returns:
            None, or why it is not available; the ring is then not started, and this is called
            again every 10 ms.
        """
        return None

    def release(self) -> None:
        """No ring is active any more: release what `acquire` acquired."""

    def refresh(self) -> bool:
        """Read the properties of what is behind the device again (SIGHUP).

        Returns:
            True when the configuration space has changed.
        """
        return False

    # The front-end

    def handlers(self) -> dict[int, Callable[[Request], bool | None]]:
        """Handlers of messages that only this device class serves, by message id.

        A handler raises `FrontendError` to refuse; see `backends.handlers`.
        """
        return {}

    def config(self) -> bytes | None:
        """The configuration space, at most 256 bytes, or None where there is none.

        It reads as zeroes after its last field.
        """
        return None

    def features_acked(self, acked: int) -> None:
        """The front-end acknowledged these feature bits."""

    def disconnected(self) -> None:
        """The front-end has disconnected, and its rings have been reset."""

    def close(self) -> None:
        """Release everything; the loop has ended."""


def scatter(buffers: list[memoryview], data: bytes | bytearray | memoryview) -> int:
    """Copy bytes to the beginning of the buffers; their number, or 0 if they do not fit."""
    if sum(map(len, buffers)) < len(data):
        return 0
    at = 0
    for buffer in buffers:
        part = data[at : at + len(buffer)]
        buffer[: len(part)] = part
        at += len(part)
    return at
