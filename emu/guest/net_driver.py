"""The guest's network driver: one queue pair, its flow of numbered packets, and probes.

The receive ring's page holds the flow's counters beside the ring, the transmit ring's page the
packets themselves, so a pair has three hot pages: two rings and the receive buffers.

    0    driver queue state (16)    96   counters, 5 words
    16   flow, 10 words             136  heads of the receive buffers, u32 each
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from emu.guest import flow as word
from emu.guest.arp_icmp import (
    ARP_ETHERTYPE,
    GUEST_ADDRESS,
    IPV4_ETHERTYPE,
    answer,
    gratuitous_arp,
)
from emu.guest.control_page import MODE, GuestContext, Mode, shifted
from emu.guest.flow import Flow
from emu.guest.frames import (
    ETHERNET_HEADER,
    FLOW,
    FLOW_BYTES,
    FLOW_ETHERTYPE,
    FLOW_MAGIC,
    MIN_FRAME,
    PROBE_ETHERTYPE,
    Probe,
    flow_check,
    nic_mac,
)
from emu.guest.layout import CONTROL_BYTES, RX_BUFFER_BYTES, RX_BUFFERS, UnitPlace
from emu.guest.request_log import RequestLog
from emu.guest.rings import open_ring
from emu.guest.transmit import TransmitRing
from vhost_user.errors import BackendError
from vhost_user.virtio.net import NET_HEADER_SIZE

#: Packets of a flow that may be in flight.
WINDOW = 4
#: The driver no longer waits for a packet that has not come back after this time.
GIVE_UP_NS = 50_000_000

_FLOW_AT, _COUNTERS_AT, _HEADS_AT = 16, 96, 136
INTERRUPTS, PROBES, PROBES_DROPPED, UNKNOWN, BROKEN = range(5)
#: After a migration: milliseconds from one announcement to the next, as QEMU spaces its own
#: (announce-initial, announce-step, announce-rounds).
_ANNOUNCEMENTS_MS = (0, 50, 150, 250, 350)
_VNET = bytes(NET_HEADER_SIZE)
#: Where a received frame's ethertype ends; anything shorter is not a frame.
_ETHERTYPE_END = NET_HEADER_SIZE + ETHERNET_HEADER

#: Gets (flow, sequence, pair) of a packet that was received on that pair, and sent on another one.
FlowSink = Callable[[int, int, int], None]


class NetPair:
    """One queue pair of a NIC.

    Args:
        context: guest memory and the machine.
        place: where the rings lie.
        peer: MAC that the pair's packets are sent to.
        forward: gets the packets that belong to another pair (a switch), in their order.
        event_idx: VIRTIO_F_EVENT_IDX was negotiated.
    """

    def __init__(
        self,
        context: GuestContext,
        place: UnitPlace,
        peer: bytes,
        forward: FlowSink,
        *,
        event_idx: bool,
    ) -> None:
        self.number = place.unit
        self.place = place
        self.lock = threading.Lock()
        self.accepting = True
        self.kicks = 0
        self._context = context
        self._peer = peer
        self._mac = nic_mac(place.number)
        self._forward = forward
        # Packets for other pairs, and whether a thread forwards them now.
        self._foreign: deque[tuple[int, int]] = deque()
        self._forwarding = False
        ram, ring = context.platform.ram, place.first_ring
        self._rx, self._control = open_ring(ram, place.rings[0], ring, event_idx=event_idx)
        self._tx = TransmitRing(ram, place.rings[1], ring + 1, event_idx=event_idx)
        self.flow = Flow(self._control[_FLOW_AT:_COUNTERS_AT].cast("Q"))
        self._counters = self._control[_COUNTERS_AT:_HEADS_AT].cast("Q")
        self._heads = self._control[_HEADS_AT : _HEADS_AT + 4 * RX_BUFFERS].cast("I")
        view = context.platform.ram.view(place.data, RX_BUFFERS * RX_BUFFER_BYTES)
        self._buffers = [
            (view[at : at + RX_BUFFER_BYTES], [(place.data + at, RX_BUFFER_BYTES)])
            for at in range(0, RX_BUFFERS * RX_BUFFER_BYTES, RX_BUFFER_BYTES)
        ]
        address_of = context.platform.notify_address
        self._rx_notify_address = address_of(place.device, ring)
        self._tx_notify_address = address_of(place.device, ring + 1)
        self._by_head: dict[int, int] = {}
        self._epoch = -1
        self._announcements: list[int] = []
        self._announce_ns = 0

    def schedule_announcements(self) -> None:
        """Have the first NIC announce the VM once it runs: it was migrated to this host.

        The bridges still have its former port, and the NIC's packets to itself do not reach them.
        """
        if not self.place.number and self.place.leads:
            self._announcements = list(_ANNOUNCEMENTS_MS)
            self._announce_ns = 0

    def _announce(self) -> None:
        now = time.monotonic_ns()
        due = self._announce_ns + self._announcements[0] * 1_000_000
        if now >= due and (self._tx.free or self._tx.await_slot()):
            del self._announcements[0]
            self._announce_ns = now
            self._put(gratuitous_arp(self._mac, GUEST_ADDRESS))

    def boot(self) -> None:
        """Write the initial state: counters at 0, empty rings, all receive buffers posted.

        The start of the device kicks the receive ring.
        """
        self._control[:] = bytes(CONTROL_BYTES)
        self._rx.reset()
        self._tx.boot()
        for buffer in range(RX_BUFFERS):
            self._heads[buffer] = self._rx.add((), self._buffers[buffer][1])
        self._rx.publish()
        self._mark_rings()

    def boot_again(self, *, keep: bool) -> None:  # noqa: ARG002  it stores nothing
        """See `QueueUnit.boot_again`."""
        with self.lock:
            kept = bytes(self._control[_FLOW_AT:_HEADS_AT])
            self.boot()
            self._control[_FLOW_AT:_HEADS_AT] = kept
            self._counters[BROKEN] = 0
            self._refresh()
            self._mark_rings()

    @property
    def interrupts(self) -> int:
        """Interrupts handled."""
        return self._counters[INTERRUPTS]

    def _mark_rings(self) -> None:
        mark, place = self._context.mark, self.place
        for ring in place.rings:
            mark(ring.start, ring.length)

    def _refresh(self) -> None:
        """Derive the state from guest memory again: another process may have written it."""
        self._by_head = {head: buffer for buffer, head in enumerate(self._heads)}
        self._tx.refresh()
        self._epoch = self._context.epoch

    def interrupt(self) -> None:
        """The device has received or sent packets."""
        self._enter(interrupts=1)

    def service(self) -> None:
        """Handle what the device has completed, without an interrupt."""
        self._enter(interrupts=0)

    def _enter(self, interrupts: int) -> None:
        with self.lock:
            self._counters[INTERRUPTS] += interrupts
            if self._epoch != self._context.epoch:
                self._refresh()
            try:
                if not self._counters[BROKEN]:
                    self._run()
            except BackendError:
                # The device completed what was not in flight: the rings cannot be used any further.
                self.flow.words[word.DUPLICATED] += 1
                self._counters[BROKEN] = 1
            self._mark_rings()
            self._context.idle.check(self)
            forward = bool(self._foreign) and not self._forwarding
            self._forwarding |= forward
        if forward:
            self._forward_all()

    def _forward_all(self) -> None:
        """Forward packets in the order in which they were received: in one thread at a time.

        Another pair's lock is never taken while this one's is held.
        """
        while True:
            with self.lock:
                if not self._foreign:
                    self._forwarding = False
                    return
                flow, sequence = self._foreign.popleft()
            self._forward(flow, sequence, self.number)

    def _run(self) -> None:
        context, rx = self._context, self._rx
        while True:
            paused = self._receive()
            self._tx.reclaim()
            if self._announcements and self.accepting:
                self._announce()
            if context.control[MODE] == Mode.HEAVY and not paused and self.accepting:
                self._fill_window()
            self._publish()
            if paused:
                context.rescan()
                return
            if not rx.arm():
                return

    def _receive(self) -> bool:
        """Handle received frames until there are none, or the vCPUs are to pause.

        Returns:
            Whether the vCPUs are to pause.
        """
        rx, platform = self._rx, self._context.platform
        pop, add, by_head, buffers = rx.pop, rx.add, self._by_head, self._buffers
        arrived = paused = False
        while not paused and (done := pop()) is not None:
            buffer = by_head.pop(done[0])
            data, extent = buffers[buffer]
            arrived |= self._frame(data, done[1])
            head = add((), extent)
            by_head[head] = buffer
            self._heads[buffer] = head
            paused = platform.paused
        if arrived:
            self.flow.words[word.LAST_NS] = time.monotonic_ns()
        return paused

    def _frame(self, data: memoryview, length: int) -> bool:
        """Handle one frame; returns whether it was a packet of this pair's flow."""
        if length >= FLOW_BYTES:
            _, _, ethertype, magic, flow, sequence, check = FLOW.unpack_from(data)
            if ethertype == FLOW_ETHERTYPE:
                if magic != FLOW_MAGIC or check != flow_check(flow, sequence):
                    self.flow.words[word.CORRUPTED] += 1
                elif flow == self.number:
                    self.flow.arrived(sequence, self.number)
                    return True
                else:
                    self._foreign.append((flow, sequence))
                return False
        # Only the first NIC answers frames from outside of the VM.
        if (
            self.place.number
            or length < _ETHERTYPE_END
            or not self._answer(data[NET_HEADER_SIZE:length])
        ):
            self._counters[UNKNOWN] += 1
        return False

    def _answer(self, frame: memoryview) -> bool:
        """Reply to a probe, an ARP request or an ICMP echo; False if it is not for this guest."""
        ethertype = int.from_bytes(frame[ETHERNET_HEADER - 2 : ETHERNET_HEADER], "big")
        reply: bytes | None = None
        if ethertype == PROBE_ETHERTYPE:
            probe = Probe.parse(frame)
            if probe is not None and not probe.is_reply:
                reply = probe.reply(self._mac).pack()
        elif ethertype in (IPV4_ETHERTYPE, ARP_ETHERTYPE):
            reply = answer(frame, self._mac, GUEST_ADDRESS)
        if reply is not None:
            self._reply(reply)
        return reply is not None

    def _reply(self, frame: bytes) -> None:
        tx = self._tx
        if not tx.free:
            tx.reclaim()
        if not tx.free or not self.accepting:
            self._counters[PROBES_DROPPED] += 1
            return
        self._put(frame)
        self._counters[PROBES] += 1

    def _put(self, frame: bytes) -> None:
        """Make a frame available; the caller has checked that a slot is free."""
        tx = self._tx
        slot = tx.free.pop()
        at = tx.offset(slot)
        tx.bytes[at : at + FLOW_BYTES] = _VNET + frame[:MIN_FRAME]
        tx.send(slot)

    def _send_packet(self) -> None:
        """Make the flow's next packet available; the caller has checked that a slot is free."""
        words, tx = self.flow.words, self._tx
        sequence = words[word.NEXT]
        slot = tx.free.pop()
        FLOW.pack_into(
            tx.bytes,
            tx.offset(slot),
            self._peer,
            self._mac,
            FLOW_ETHERTYPE,
            FLOW_MAGIC,
            self.number,
            sequence,
            flow_check(self.number, sequence),
        )
        tx.send(slot)
        words[word.NEXT] = sequence + 1

    def _fill_window(self) -> None:
        room = WINDOW - self.flow.outstanding()
        if room <= 0:
            return
        for _ in range(room):
            if not self._tx.free and not self._tx.await_slot():
                return
            self._send_packet()
        self.flow.words[word.LAST_NS] = time.monotonic_ns()

    def _publish(self) -> None:
        notify, ring = self._context.platform.notify, self.place.first_ring
        if self._rx.publish():
            self.kicks += 1
            notify(self._rx_notify_address, ring)
        if self._tx.publish():
            self.kicks += 1
            notify(self._tx_notify_address, ring + 1)

    def prime(self) -> None:
        """Fill the window and kick; for the load in which each packet received sends the next."""
        if self._context.control[MODE] == Mode.HEAVY:
            self.service()
        elif self._context.idle.active:
            with self.lock:
                self._context.idle.check(self)

    def send_one(self) -> bool:
        """Send one packet if the window allows it.

        Returns:
            False when it does not.
        """
        with self.lock:
            if self._epoch != self._context.epoch:
                self._refresh()
            if self._counters[BROKEN] or self.flow.outstanding() >= WINDOW or not self.accepting:
                return False
            if not self._tx.free:
                self._tx.reclaim()
            if self._tx.free:
                self._send_packet()
                self.flow.words[word.LAST_NS] = time.monotonic_ns()
                self._publish()
            self._mark_rings()
        return True

    def overdue(self, now_ns: int) -> bool:
        """Whether packets in flight have not come back within `GIVE_UP_NS` (takes no lock)."""
        words = self.flow.words
        return now_ns - words[word.LAST_NS] > GIVE_UP_NS and self.flow.outstanding() > 0

    def shift_clock(self, ns: int) -> None:
        """The guest's clock is a different one from now on, ``ns`` ahead of the one before."""
        words = self.flow.words
        words[word.LAST_NS] = shifted(words[word.LAST_NS], ns)

    def expire(self, now_ns: int) -> None:
        """Wait no longer for overdue packets, so that the window has room for others."""
        with self.lock:
            if not self.overdue(now_ns):
                return
            self.flow.give_up()
            self.flow.words[word.LAST_NS] = now_ns
        self.service()

    def arrived_on_other_pair(self, sequence: int, pair: int) -> None:
        """A packet of this flow was received on that pair."""
        with self.lock:
            self.flow.arrived(sequence, pair)
            self.flow.words[word.LAST_NS] = time.monotonic_ns()
        self.service()

    def completed(self) -> int:
        """Packets and replies that the device has sent."""
        added = self.flow.words[word.NEXT] + self._counters[PROBES]
        return max(0, added - self._tx.queue.in_flight)

    def outstanding(self) -> int:
        """Packets in the transmit ring, or in flight."""
        return max(self.flow.outstanding(), self._tx.queue.in_flight)

    def quiet(self) -> bool:
        """Nothing is in flight; the caller holds the lock."""
        if self._counters[BROKEN]:
            return False
        if self._epoch != self._context.epoch:
            self._refresh()
        # for packets that are dropped, only the transmit ring raises an interrupt
        empty = self._tx.empty()
        self._mark_rings()
        return empty and not self.flow.outstanding()

    def request_log(self) -> RequestLog:
        """This pair's part of the request log."""
        words, counters = self.flow.words, self._counters
        return RequestLog(
            corrupted=words[word.CORRUPTED],
            packets_sent=words[word.NEXT],
            packets_received=words[word.RECEIVED],
            packets_lost=self.flow.lost(),
            packets_duplicated=words[word.DUPLICATED],
            packets_reordered=words[word.REORDERED],
            packets_corrupted=words[word.CORRUPTED],
            probes_answered=counters[PROBES],
            probes_dropped=counters[PROBES_DROPPED],
            net_interrupts=counters[INTERRUPTS],
        )
