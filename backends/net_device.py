"""A virtio network device (virtio 1.3, section 5.1) that is a port of a `Fabric`.

Even rings receive, odd ones transmit; two are a pair. A frame for which the driver has no buffer
is dropped: no frames are queued here.

Frames that come back to their NIC are returned by a compiled function (`backends.nic_batch`), many
in one call, where they are of the usual kind.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Protocol, cast

from backends import stats
from backends.limits import BUDGET, INBOX_FRAMES, LARGEST_FRAME, requests_in
from backends.net_config import DEFAULT_MTU, longest_frame, too_long
from backends.nic_batch import NicBatch
from backends.ring_service import Served, serve_ring
from backends.virtio_device import VirtioDevice, scatter
from vhost_user.errors import FrontendError
from vhost_user.features import VIRTIO_F_VERSION_1, ProtocolFeature
from vhost_user.messages import FrontendRequest
from vhost_user.postcopy import PagesMissing
from vhost_user.virtio.net import (
    LEGACY_NET_HEADER_SIZE,
    MTU_RANGE,
    VIRTIO_NET_F_CTRL_VQ,
    VIRTIO_NET_F_MAC,
    VIRTIO_NET_F_MQ,
    VIRTIO_NET_F_MTU,
    VIRTIO_NET_F_STATUS,
    VIRTIO_NET_S_LINK_UP,
    NetConfig,
)
from vhost_user.virtio.ring_limits import NET

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from backends.loop import Loop
    from backends.observer import DeviceObserver
    from backends.ring import Ring
    from vhost_user.messages import Request
    from vhost_user.payloads import U64
    from vhost_user.virtqueue import Chain, DeviceQueue

#: flags, gso_type, hdr_len, gso_size, csum_start, csum_offset, num_buffers = 1.
RX_HEADER = bytes(LEGACY_NET_HEADER_SIZE) + b"\x01\x00"
#: Without VERSION_1 (and mergeable buffers) there is no num_buffers.
LEGACY_HEADER = bytes(LEGACY_NET_HEADER_SIZE)
SHORTEST_FRAME = 14
LONGEST_FRAME = longest_frame(MTU_RANGE[-1])


class Network(Protocol):
    """What a NIC is connected to: a `backends.fabric.Fabric`, or a `backends.tap.TapPort`."""

    @property
    def returns_frames(self) -> bool:
        """Each frame comes back to the pair that sends it, and goes nowhere else."""

    def attach(self, nic: NetDevice, /) -> None:
        """Add a NIC, which receives frames from now on."""

    def transmit(self, nic: NetDevice, pair: int, frame: bytes, /) -> None:
        """A frame that the NIC's driver sends."""

    def announce(self, nic: NetDevice, mac: bytes, /) -> None:
        """Announce where an address is now."""


class NetDevice(VirtioDevice):
    """A network card.

    Args:
        name: what errors and tables call it.
        loop: the loop that serves it.
        rings: how many rings it has: two for each pair.
        fabric: where its frames go.
        counters: its slots in the statistics.
        mac: its address, if it has a configuration space; front-ends like QEMU have one themselves.
        mtu: bytes of the largest packet, if there is such a limit.
    """

    backend_type = "net"
    ring_limits = NET

    def __init__(
        self,
        name: str,
        loop: Loop,
        rings: int,
        fabric: Network,
        counters: memoryview | None = None,
        *,
        mac: bytes | None = None,
        mtu: int | None = None,
    ) -> None:
        super().__init__(name, loop, rings, counters)
        self._fabric = fabric
        # The front-end serves the control queue, which a driver needs for multiqueue.
        self.features |= 1 << VIRTIO_NET_F_MTU | 1 << VIRTIO_NET_F_CTRL_VQ | 1 << VIRTIO_NET_F_MQ
        self.protocol_features |= ProtocolFeature.NET_MTU | ProtocolFeature.RARP
        self._config: NetConfig | None = None
        if mac is not None:
            mtu = mtu or DEFAULT_MTU
            self._config = NetConfig(mac, VIRTIO_NET_S_LINK_UP, rings // 2, mtu)
            self.features |= 1 << VIRTIO_NET_F_MAC | 1 << VIRTIO_NET_F_STATUS
            self.protocol_features |= ProtocolFeature.CONFIG | ProtocolFeature.BACKEND_REQ
        self._own_mtu = self._mtu = mtu
        self._longest = LONGEST_FRAME
        self._header = RX_HEADER
        self._batch = NicBatch(self.counters)
        self._touched: list[Ring] = []
        # Frames for rings that wait for pages of guest memory, in order.
        self._held: dict[Ring, deque[bytes]] = {}
        self._publish_posted = False
        self._inbox: deque[tuple[int, bytes]] = deque()
        self._inbox_posted = False
        self._acked = 0
        self._rings: Sequence[Ring] = ()
        self._observer: DeviceObserver | None = None
        self._apply_mtu()

    def attach(self, rings: Sequence[Ring], observer: DeviceObserver) -> None:
        """Connect the device to its network."""
        self._rings, self._observer = rings, observer
        self._fabric.attach(self)

    @property
    def queue_num(self) -> int:
        """Pairs of rings."""
        return self.num_rings // 2

    def handlers(self) -> dict[int, Callable[[Request], bool | None]]:
        """SEND_RARP and NET_SET_MTU."""
        return {
            FrontendRequest.SEND_RARP: self._send_rarp,
            FrontendRequest.NET_SET_MTU: self._set_mtu,
        }

    def features_acked(self, acked: int) -> None:
        """The header's length and the MTU depend on them."""
        self._acked = acked
        self._header = RX_HEADER if acked >> VIRTIO_F_VERSION_1 & 1 else LEGACY_HEADER
        self._apply_mtu()

    def disconnected(self) -> None:
        """The MTU that the front-end set is not valid any more."""
        self._acked = 0
        self._mtu = self._own_mtu
        self._apply_mtu()

    def config(self) -> bytes | None:
        """See `VirtioDevice.config`; a NIC without an address has none."""
        return None if self._config is None else self._config.pack()

    def set_link_down(self) -> None:
        """The network is gone: the link is down from now on."""
        if self._config is not None and self._config.status:
            self._config = self._config._replace(status=0)
            if self._observer is not None:
                self._observer.config_changed()

    # From the guest

    def process(self, ring: Ring, queue: DeviceQueue) -> bool:
        """Take frames from a transmit ring; see `VirtioDevice.process`."""
        if not ring.index & 1:
            # Its buffers are popped when a frame comes, or when their pages have come.
            if self._held:
                self._deliver_held(ring)
            return False
        try:
            return serve_ring(ring, queue, self._return_frames, self._send)
        finally:
            if self._touched:
                self.publish()

    def _return_frames(self, ring: Ring) -> Served:
        """By the compiled function, into the receive ring of the same pair."""
        target = self._rings[ring.index - 1]
        if self._held or not self._fabric.returns_frames or not _receives(target):
            return Served.UNUSUAL
        tx, rx = ring.lend(), target.lend()
        if tx is None or rx is None:
            return Served.UNUSUAL
        returned = self._batch.serve(tx, rx)
        if returned.notify_tx:
            ring.interrupt()
        if returned.notify_rx:
            target.interrupt()
        return returned.served

    def _send(self, ring: Ring, queue: DeviceQueue, chain: Chain) -> None:
        """Forward one frame."""
        readable, header, longest = chain.readable, len(self._header), self._longest
        length = len(readable[0]) if len(readable) == 1 else sum(map(len, readable))
        queue.push(chain.head, 0)
        if not header + SHORTEST_FRAME <= length <= LARGEST_FRAME:
            self.counters[stats.ERRORS] += 1
            return
        data = readable[0] if len(readable) == 1 else b"".join(readable)
        frame = bytes(data[header:])
        if len(frame) > longest and too_long(frame, longest):
            self.counters[stats.ERRORS] += 1
            return
        ring.check_memory()
        self.counters[stats.PACKETS_TX] += 1
        self._fabric.transmit(self, ring.index >> 1, frame)

    def discard(self, ring: Ring) -> None:
        """The frames of a disabled transmit ring are popped and dropped."""
        if not ring.index & 1 or ring.broken:
            return
        queue = ring.queue or ring.activate()
        if queue is None:
            return
        left = BUDGET
        while left > 0 and (chain := queue.pop()) is not None:
            queue.push(chain.head, 0)
            self.counters[stats.PACKETS_DROPPED] += 1
            left -= requests_in(chain)
        if queue.publish():
            ring.interrupt()
        if left <= 0 or queue.arm():
            ring.schedule()

    # To the guest

    def deliver(self, pair: int, frame: bytes) -> None:
        """Put a frame into a receive ring; `publish` shows it. In the device's own thread.

        A guest may use fewer pairs than it has: a frame for a pair whose receive ring is disabled,
        or was not set up, goes to one of the others. While a ring that the guest uses is stopped,
        its frames are dropped: in another ring they would be received late, after those that follow
        when the ring has been started again. An error of the ring breaks it, and is not raised to
        the sender of the frame.
        """
        ring = self._rings[2 * pair]
        if not (ring.enabled and ring.memory.configured):
            served = [other for other in self._rings[::2] if _receives(other)]
            ring = served[pair % len(served)] if served else ring
        queue = ring.queue
        if queue is None or not _receives(ring):
            self.counters[stats.PACKETS_DROPPED] += 1
            return
        if len(frame) > self._longest and too_long(frame, self._longest):
            self.counters[stats.PACKETS_DROPPED] += 1
            return
        if self._held and (held := self._held.get(ring)) is not None:
            if len(held) < INBOX_FRAMES:
                held.append(frame)
            else:
                self.counters[stats.PACKETS_DROPPED] += 1
            return
        with ring.contained:  # whatever is raised, it is not the sender's
            try:
                self._put(ring, queue, frame)
            except PagesMissing as missing:
                self._held[ring] = deque([frame])
                ring.wait_for(missing)

    def _deliver_held(self, ring: Ring) -> None:
        """Put the frames into a ring whose pages have come."""
        for frame in self._held.pop(ring, ()):
            self.deliver(ring.index >> 1, frame)
        self.publish()

    def _put(self, ring: Ring, queue: DeviceQueue, frame: bytes) -> None:
        chain = queue.pop()
        if chain is None:
            self.counters[stats.PACKETS_DROPPED] += 1
            return
        data = self._header + frame
        length = len(data)
        writable = chain.writable
        if writable and length <= len(writable[0]):
            writable[0][:length] = data
        else:
            length = scatter(writable, data)
        self.counters[stats.PACKETS_RX if length else stats.PACKETS_DROPPED] += 1
        mark = ring.log_mark
        if mark is not None:
            for gpa, size in chain.dirtied(length):
                mark(gpa, size)
        queue.push(chain.head, length)
        if ring not in self._touched:
            self._touched.append(ring)

    def publish(self) -> None:
        """Show the driver what was delivered."""
        touched, self._touched = self._touched, []
        for ring in touched:
            with ring.contained:  # as in `deliver`
                if ring.queue is not None and ring.queue.publish():
                    ring.interrupt()

    def publish_later(self) -> None:
        """`publish` at the end of this turn of the loop."""
        if not self._publish_posted:
            self._publish_posted = True
            self.loop.finally_(self._publish_posted_ones)

    def post_frame(self, pair: int, frame: bytes) -> None:
        """From any thread: have the device's own thread deliver a frame."""
        if len(self._inbox) >= INBOX_FRAMES:
            self.counters[stats.PACKETS_DROPPED] += 1
            return
        self._inbox.append((pair, frame))
        if not self._inbox_posted:
            self._inbox_posted = True
            self.loop.post(self._take_inbox)

    def stopping(self, ring: Ring) -> None:
        """Publish what was delivered before the ring's base is returned."""
        self._held.pop(ring, None)
        if self._touched:
            self.publish()

    def _publish_posted_ones(self) -> None:
        self._publish_posted = False
        self.publish()

    def _take_inbox(self) -> None:
        # First: a frame that is appended from here on posts again.
        self._inbox_posted = False
        inbox = self._inbox
        for _ in range(len(inbox)):
            self.deliver(*inbox.popleft())
        self.publish()

    # Messages

    def _send_rarp(self, request: Request) -> None:
        mac = cast("U64", request.payload).value.to_bytes(8, "little")[:6]
        self._fabric.announce(self, mac)

    def _set_mtu(self, request: Request) -> None:
        mtu = cast("U64", request.payload).value
        if mtu not in MTU_RANGE:
            raise FrontendError(f"an MTU of {mtu} is out of range")
        if self._own_mtu is not None and mtu > self._own_mtu:
            raise FrontendError(f"an MTU of {mtu}, and the limit is {self._own_mtu}")
        self._mtu = mtu
        self._apply_mtu()

    def _apply_mtu(self) -> None:
        """The MTU limits both directions once the driver has acknowledged it (5.1.4)."""
        known = self._mtu if self._acked >> VIRTIO_NET_F_MTU & 1 else None
        self._longest = LONGEST_FRAME if known is None else longest_frame(known)
        longest = min(self._longest, LARGEST_FRAME - len(self._header))
        self._batch.set_header(self._header, SHORTEST_FRAME, longest)


def _receives(ring: Ring) -> bool:
    """Whether a ring takes frames. A halted one may still have its queue, but takes none."""
    return ring.queue is not None and ring.started and ring.enabled and not ring.broken
