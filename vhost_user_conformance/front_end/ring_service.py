"""The rings of a session: kicks, requests that are taken, and requests that are completed."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from typing import TYPE_CHECKING

from vhost_user import eventfd
from vhost_user.features import VHOST_USER_F_PROTOCOL_FEATURES, VIRTIO_RING_F_EVENT_IDX
from vhost_user.payloads import MemTable, SingleRegion, VringState
from vhost_user_conformance.front_end.guest_memory import GuestMemory
from vhost_user_conformance.front_end.recording import F, MemoryTable, RingStart
from vhost_user_conformance.front_end.ring import Ring, Walker

if TYPE_CHECKING:
    from vhost_user_conformance.front_end.device import Device
    from vhost_user_conformance.front_end.recording import Recording
    from vhost_user_conformance.front_end.ring import Chain
    from vhost_user_conformance.front_end.script import Script
    from vhost_user_conformance.peer.wire import Message

#: Maximum number of requests that are recorded.
CHAINS_KEPT = 4000
#: The same for a ring that is not served.
OFFERED_KEPT = 64
PROTOCOL_BIT = 1 << VHOST_USER_F_PROTOCOL_FEATURES


class RingService:
    """Serves the rings of one session.

    Args:
        script: how to serve them.
        device: carries requests out.
        recording: of the session; it may be replaced by another.

    Attributes:
        memory: guest memory that the front-end has shared.
        rings: by index.
        features: feature bits that the front-end has acknowledged, or None.
        paused: no request is taken any more.
    """

    def __init__(self, script: Script, device: Device, recording: Recording) -> None:
        self.memory = GuestMemory()
        self.rings: dict[int, Ring] = {}
        self.recording = recording
        self.features: int | None = None
        self.device = device
        self.paused = script.idle
        self._script = script
        self._held: deque[tuple[Ring, Chain]] = deque()
        self._busy: set[Ring] = set()

    @property
    def running(self) -> bool:
        """Whether a ring has been started and kicked."""
        return any(ring.ready and ring.kicked for ring in self.rings.values())

    @property
    def busy(self) -> bool:
        """Whether a ring may have more requests without another kick."""
        return bool(self._busy)

    def ring(self, index: int) -> Ring:
        """The ring with this index."""
        if index not in self.rings:
            self.rings[index] = Ring(index)
            self.rings[index].quiet = self._script.calls_as_asked
            self._enable_all()
        return self.rings[index]

    def negotiated(self, features: int) -> None:
        """SET_FEATURES."""
        self.features = features
        self._enable_all()

    def _enable_all(self) -> None:
        """Without bit 30 there is no SET_VRING_ENABLE: all rings are enabled."""
        if self.features is not None and not self.features & PROTOCOL_BIT:
            for ring in self.rings.values():
                ring.enabled = True

    def share_memory(self, message: Message) -> None:
        """Apply a message that changes guest memory. Raises `PayloadError`."""
        if message.id == F.SET_MEM_TABLE:
            self.memory.clear()
            for region, fd in zip(
                MemTable.unpack(message.payload).regions, message.fds, strict=False
            ):
                self.memory.add(region, fd)
        else:
            region = SingleRegion.unpack(message.payload).region
            if message.id == F.REM_MEM_REG:
                self.memory.remove(region)
            elif message.fds:
                self.memory.add(region, message.fds[0])
        mapped = self.memory.mapped
        self.recording.tables.append(
            MemoryTable(
                len(self.recording.messages) - 1,
                tuple(each.region for each in mapped),
                tuple(each.region for each in mapped if each.shared is None),
            )
        )

    def configure(self, message: Message) -> None:
        """Apply a message that configures a ring. Raises `PayloadError`."""
        if message.id in (F.SET_VRING_KICK, F.SET_VRING_CALL):
            ring = self.ring(message.u64 & 0xFF)
            fd = os.dup(message.fds[0]) if message.fds else None
            name = "kick" if message.id == F.SET_VRING_KICK else "call"
            old = getattr(ring, name)
            setattr(ring, name, fd)
            if old is not None:
                os.close(old)
            if name == "kick":
                ring.begun = False
                self._begin(ring)
        elif message.id == F.SET_VRING_ADDR:
            received = self.recording.messages[-1].address
            self.ring(received.ring).address = received
        elif message.id in (F.SET_VRING_NUM, F.SET_VRING_BASE, F.SET_VRING_ENABLE):
            state = VringState.unpack(message.payload)
            ring = self.ring(state.ring)
            if message.id == F.SET_VRING_NUM:
                ring.size = state.num
            elif message.id == F.SET_VRING_BASE:
                ring.next = state.num & 0xFFFF
            else:
                ring.enabled = bool(state.num)
                self._begin(ring)
                self.serve(ring)

    def _begin(self, ring: Ring) -> None:
        """Of a ring with a kick descriptor that is enabled: record its start, and request kicks.

        The indices of a ring that is not enabled may still come: from the source of a migration.
        """
        if ring.begun or not (ring.ready and ring.enabled):
            return
        ring.begun = True
        walker = self._walker(ring)
        available = walker.avail_index
        if available is not None:
            at = len(self.recording.messages) - 1
            used = walker.used_index
            self.recording.ring_starts.append(RingStart(at, ring.index, ring.next, used, available))
        walker.want_kick()

    def _walker(self, ring: Ring) -> Walker:
        ring.event_idx = bool((self.features or 0) >> VIRTIO_RING_F_EVENT_IDX & 1)
        return Walker(self.memory, ring)

    def kicked(self, ring: Ring, fd: int, act: str) -> None:
        """The kick descriptor of a ring became readable during this act."""
        # The front-end may have read it, and made it blocking; or it is not an eventfd.
        try:
            eventfd.take(fd)
        except OSError:
            with contextlib.suppress(OSError):
                os.read(fd, 8)
        ring.kicked = True
        self.recording.kicks.add((act, ring.index))
        self.serve(ring)

    def serve_busy(self) -> None:
        """Serve the rings that may have more requests."""
        busy, self._busy = self._busy, set()
        for ring in busy:
            self.serve(ring)

    def serve(self, ring: Ring) -> None:
        """Take the available requests, and complete them unless the script holds them."""
        if self.paused or not (ring.ready and ring.enabled and ring.kicked):
            return
        walker = self._walker(ring)
        if not self.device.handles(ring.index):
            room = OFFERED_KEPT - len(self.recording.offered)
            self.recording.offered += walker.look_ahead(room)
            return
        self.recording.flag_faults.update(walker.flag_faults())
        # A driver may add requests as fast as they are taken, so other rings are served in between.
        for _ in range(ring.size):
            chain = walker.take()
            if chain is None:
                return
            if len(self.recording.chains) < CHAINS_KEPT:
                self.recording.chains.append(chain)
            if self._script.holds:
                self._held.append((ring, chain))
                walker.want_kick()
            else:
                walker.give_back(chain, self.device.do(self.memory, chain))
        self._busy.add(ring)

    def complete_one(self) -> bool:
        """Complete the request that has been held longest. Returns False if none is held."""
        if not self._held:
            return False
        ring, chain = self._held.popleft()
        self._walker(ring).give_back(chain, self.device.do(self.memory, chain))
        return True

    def waiting(self) -> dict[int, int]:
        """Rings with requests that have not been kicked for, and the index of the next request."""
        found = {}
        for ring in self.rings.values():
            if ring.ready and ring.enabled and self.device.handles(ring.index):
                available = self._walker(ring).avail_index
                if available not in (None, ring.next):
                    found[ring.index] = ring.next
        return found

    def available(self) -> dict[int, int | None]:
        """The available index of each ring that runs."""
        return {
            ring.index: self._walker(ring).avail_index for ring in self.rings.values() if ring.ready
        }

    def stop(self, index: int) -> int:
        """GET_VRING_BASE: complete held requests, close the notifiers, and return the base."""
        ring = self.ring(index)
        self.serve(ring)
        while any(held is ring for held, _ in self._held):
            self.complete_one()
        self._busy.discard(ring)
        ring.stop()
        return ring.next

    def close(self) -> None:
        """Unmap guest memory and close all notifiers; an error does not stop this.

        Raises:
            OSError: a descriptor had been closed before.
        """
        with contextlib.ExitStack() as owned:
            owned.callback(self.memory.clear)
            for ring in self.rings.values():
                owned.callback(ring.stop)
