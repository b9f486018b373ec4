"""The counts of a tap."""

from __future__ import annotations

from emu.tap.traffic import Traffic
from tests.emu.tap.talk import F, Talk


def test_connections_and_messages() -> None:
    """One of each is in the singular."""
    traffic = Traffic()
    assert traffic.summary() == "0 connections, 0 messages"
    Talk([traffic.take]).ask(F.SET_OWNER)
    assert traffic.summary() == "1 connection, 1 message"
