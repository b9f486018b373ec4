"""Frames of the guest, and probes from outside of the VM."""
# ruff: noqa: D103 - the name of a test is its documentation

from __future__ import annotations

import pytest

from emu.guest.frames import BROADCAST, FLOW, MIN_FRAME, Probe, flow_check, nic_mac
from vhost_user.virtio.net import NET_HEADER_SIZE

PROBE = Probe(BROADCAST, b"\x02\0\0\0\0\x09", sequence=1 << 40, sent_ns=1 << 60, is_reply=False)


def test_a_probe_and_its_answer_round_trip() -> None:
    assert len(PROBE.pack()) == MIN_FRAME
    assert Probe.parse(PROBE.pack()) == PROBE
    answer = PROBE.reply(nic_mac(3))
    assert Probe.parse(memoryview(answer.pack())) == answer
    assert answer.is_reply
    assert (answer.destination, answer.source) == (PROBE.source, nic_mac(3))
    assert (answer.sequence, answer.sent_ns) == (PROBE.sequence, PROBE.sent_ns)


@pytest.mark.parametrize("at", range(12, 18))
def test_a_frame_with_another_ethertype_or_magic_is_not_a_probe(at: int) -> None:
    frame = bytearray(PROBE.pack())
    frame[at] ^= 0x80
    assert Probe.parse(frame) is None


def test_a_short_frame_is_not_a_probe() -> None:
    for length in range(34):
        assert Probe.parse(PROBE.pack()[:length]) is None


def test_macs_are_unicast_local_and_different() -> None:
    macs = {nic_mac(nic) for nic in range(300)}
    assert len(macs) == 300
    assert all(len(mac) == 6 and mac[0] & 3 == 2 for mac in macs)


def test_a_packet_is_the_virtio_net_header_and_the_shortest_frame() -> None:
    assert FLOW.size == NET_HEADER_SIZE + MIN_FRAME


def test_check_values_of_neighbouring_packets_differ() -> None:
    checks = {flow_check(flow, sequence) for flow in range(30) for sequence in range(30)}
    assert len(checks) == 900
