"""A NIC at the front-end."""
# ruff: noqa: D103 - the names say what they do

from __future__ import annotations

from devices.net import VhostUserNet


def test_queues_are_pairs_of_rings() -> None:
    nic = VhostUserNet("net0", range(0, 16, 4), range(4))
    assert len(nic.rings) == 4
    assert nic.queues == 2
    nic.close()


def test_even_rings_receive() -> None:
    nic = VhostUserNet("net0", range(0, 16, 4), range(4))
    assert [nic.receives(ring) for ring in nic.rings] == [True, False, True, False]
    nic.close()
