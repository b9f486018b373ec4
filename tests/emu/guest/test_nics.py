"""The driver of all NICs: which NIC each one sends to."""

from __future__ import annotations

import pytest

from emu.guest.nics import _peer


@pytest.mark.parametrize("nics", [1, 2, 3, 16])
def test_nics_on_a_switch_send_to_each_other_in_pairs(nics: int) -> None:
    """The last of an odd number sends to itself, and so do all NICs without a switch."""
    peers = [_peer(nic, nics, switched=True) for nic in range(nics)]
    assert sorted(peers) == list(range(nics))
    assert all(peers[peers[nic]] == nic for nic in range(nics))
    assert [nic for nic in range(nics) if peers[nic] == nic] == ([nics - 1] if nics % 2 else [])
    assert [_peer(nic, nics, switched=False) for nic in range(nics)] == list(range(nics))
