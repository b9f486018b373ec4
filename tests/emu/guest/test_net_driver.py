"""The network driver: flows, losses, and probes from outside."""
# ruff: noqa: D103 - the name of a test is its documentation

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from emu.config.ring_use import these_rings
from emu.guest.config import GuestConfig
from emu.guest.flow import LAST_NS
from emu.guest.frames import (
    BROADCAST,
    FLOW,
    FLOW_ETHERTYPE,
    FLOW_MAGIC,
    Probe,
    flow_check,
    nic_mac,
)
from emu.guest.net_driver import GIVE_UP_NS
from tests.emu.guest.small_machine import small_spec
from vhost_user.virtio.net import NET_HEADER_SIZE
from vhost_user.virtqueue import DeviceQueue

if TYPE_CHECKING:
    from tests.emu.guest.conftest import Guest, MakeGuest

OUTSIDE = b"\x02\0\0\0\0\1"


@pytest.fixture(params=[True, False], ids=["event-idx", "flags"])
def guest(request: pytest.FixtureRequest, make_guest: MakeGuest) -> Guest:
    """Two NICs with two queue pairs each, under heavy load."""
    made = make_guest(small_spec(blk=""), GuestConfig(event_idx=request.param))
    made.program.start_load("heavy")
    made.ticks(1)
    return made


def last_times(guest: Guest) -> list[int]:
    """The time at which each flow last sent or received a packet."""
    return [pair.flow.words[LAST_NS] for pair in guest.program.nics.queues]


def test_heavy_load_keeps_every_window_full(guest: Guest) -> None:
    assert guest.program.packets_in_flight() == 16
    guest.run(500)
    totals = guest.program.request_log()
    assert totals.packets_received > 900
    assert totals.packets_sent == totals.packets_received + 16
    assert totals.packets_lost == 0
    assert totals.intact


def test_lost_packets_are_counted_and_do_not_stall_the_flow(guest: Guest) -> None:
    guest.devices.drop = {20, 40, 41, 42, 90}
    guest.run(500)
    totals = guest.program.request_log()
    assert totals.packets_lost == 5
    assert totals.packets_received == totals.packets_sent - 5 - guest.program.packets_in_flight()
    assert totals.intact


def test_a_window_that_was_lost_as_a_whole_expires(guest: Guest) -> None:
    guest.devices.drop = range(1 << 20)
    guest.run(50)
    assert guest.program.packets_in_flight() == 16
    guest.devices.drop = set()
    guest.ticks(4, min(last_times(guest)))
    assert not guest.machine.notified  # too early
    sent = guest.program.request_log().packets_sent
    guest.ticks(1, max(last_times(guest)) + GIVE_UP_NS + 1)
    assert guest.program.request_log().packets_lost == 16
    assert guest.program.request_log().packets_sent == sent + 16
    guest.run(100)
    totals = guest.program.request_log()
    assert totals.packets_lost == 16
    assert totals.packets_received > 150


def test_a_reset_leaves_no_slot_of_the_transmit_ring_in_use(guest: Guest) -> None:
    """Whatever was in flight: after a few resets no packet could be sent any more."""
    for _ in range(4):
        for device in (0, 1):
            guest.program.boot_device(device)
        guest = guest.anew()
        guest.program.resume_load()
        guest.ticks(1)
        assert guest.program.packets_in_flight() == 16
    guest.run(500)
    totals = guest.program.request_log()
    assert totals.packets_received > 900
    assert totals.packets_lost == 0
    assert totals.intact


def test_a_packet_received_after_it_was_given_up_is_not_lost(guest: Guest) -> None:
    guest.ticks(
        1, max(last_times(guest)) + GIVE_UP_NS + 1
    )  # all 16 packets are still in the transmit rings
    assert guest.program.request_log().packets_lost == 16
    guest.run(300)
    totals = guest.program.request_log()
    assert (totals.packets_lost, totals.packets_duplicated, totals.packets_reordered) == (0, 0, 0)
    assert totals.packets_received > 500


def test_a_packet_received_twice_is_a_duplicate(guest: Guest) -> None:
    guest.devices.twice = {30, 60}
    guest.run(300)
    totals = guest.program.request_log()
    assert totals.packets_duplicated == 2
    assert totals.packets_lost == 0
    assert not totals.intact


def test_a_damaged_packet_is_corrupted(guest: Guest) -> None:
    guest.run(20)
    frame = bytearray(60)
    frame[12:14] = b"\x88\xb6"
    for vector in guest.devices.deliver(0, 0, bytes(frame)):
        guest.program.interrupt(0, vector)
    assert guest.program.request_log().packets_corrupted == 1


def test_probes_from_outside_are_answered_by_the_first_nic(make_guest: MakeGuest) -> None:
    guest = make_guest(small_spec(blk=""))
    probe = Probe(BROADCAST, OUTSIDE, sequence=77, sent_ns=123456, is_reply=False)
    for device in (0, 1):
        for vector in guest.devices.deliver(device, 0, probe.pack()):
            guest.program.interrupt(0, vector)
    guest.run()
    (frame,) = guest.devices.outside
    assert Probe.parse(frame) == Probe(OUTSIDE, nic_mac(0), 77, 123456, is_reply=True)
    assert guest.program.request_log().probes_answered == 1


def test_probes_without_a_free_slot_are_dropped_and_do_not_disturb_the_flow(
    guest: Guest,
) -> None:
    probe = Probe(BROADCAST, OUTSIDE, sequence=1, sent_ns=2, is_reply=False).pack()
    vectors = [v for _ in range(16) for v in guest.devices.deliver(0, 0, probe)]
    guest.program.interrupt(0, guest.machine.vector(0, 0))
    totals = guest.program.request_log()
    assert vectors
    assert totals.probes_answered == 4
    assert totals.probes_dropped == 12
    guest.run(300)
    assert guest.program.request_log().packets_received > 500
    assert guest.program.request_log().packets_lost == 0


def test_nics_on_a_switch_send_to_each_other(
    make_guest: MakeGuest, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest = make_guest(small_spec(blk=""), GuestConfig(switched=True))
    guest.program.start_load("heavy")
    guest.ticks(1)
    deliver = guest.devices.deliver

    def switch(device: int, ring: int, frame: bytes) -> list[int]:
        return deliver(device ^ 1, ring, frame) if frame[:6] == nic_mac(device ^ 1) else []

    monkeypatch.setattr(guest.devices, "deliver", switch)
    guest.run(300)
    totals = guest.program.request_log()
    assert totals.packets_received > 500
    assert totals.packets_lost == 0
    assert totals.intact


def test_packets_for_another_pair_keep_their_order(
    guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is received, by another vCPU, while the one before is being forwarded."""
    other = guest.program.nics.queues[1]
    forwarded: list[int] = []

    def receive(sequence: int) -> None:
        macs = BROADCAST, OUTSIDE
        check = flow_check(other.number, sequence)
        packet = FLOW.pack(*macs, FLOW_ETHERTYPE, FLOW_MAGIC, other.number, sequence, check)
        for vector in guest.devices.deliver(0, 0, packet[NET_HEADER_SIZE:]):
            guest.program.interrupt(0, vector)

    def forward(sequence: int, pair: int) -> None:
        assert pair == guest.program.nics.queues[0].number
        if not sequence:
            receive(1)
        forwarded.append(sequence)

    monkeypatch.setattr(other, "arrived_on_other_pair", forward)
    receive(0)
    assert forwarded == [0, 1]


def test_the_flow_continues_when_sent_packets_are_collected_late(
    guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device may deliver a looped packet before it completes the packet's transmission."""
    queue = guest.devices.queues[0, 1]
    publish = DeviceQueue.publish

    def held_back(of: DeviceQueue) -> bool:
        return of is not queue and publish(of)

    with monkeypatch.context() as patch:
        patch.setattr(DeviceQueue, "publish", held_back)
        guest.run(40)
    if queue.publish():
        guest.program.interrupt(0, guest.machine.vector(0, 1))
    guest.run(100)
    assert guest.program.request_log().packets_lost == 0
    assert guest.program.nics.queues[0].request_log().packets_received > 50


def test_the_first_pair_in_use_announces_the_vm(make_guest: MakeGuest) -> None:
    """Of the first NIC, after a migration."""
    guest = make_guest(small_spec(net="2x6", blk="", net_use=these_rings([2, 3, 4, 5])))
    guest = guest.move()
    for pair in guest.program.nics.queues:
        pair.service()
        assert bool(pair._announcements) == ((pair.place.number, pair.place.position) == (0, 1))
    guest.settle()
    (frame,) = guest.devices.outside
    assert frame[:6] == BROADCAST
    assert frame[12:14] == b"\x08\x06"
