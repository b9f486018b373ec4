"""The counts of a tap."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.tap.connection import Arrived
from emu.tap.traffic import Traffic
from tests.emu.tap.taps import Sides, Tap

if TYPE_CHECKING:
    from pathlib import Path


def test_connections_and_messages(tmp_path: Path) -> None:
    """One of each is in the singular."""
    sides = Sides(tmp_path)
    with Tap([sides.pair]) as tap, sides.listener:
        front, back = sides.connected()
        front.send(b"\1\0\0\0\1\0\0\0\0\0\0\0")
        tap.await_event(Arrived)
        front.close()
        back.close()
    traffic = Traffic()
    assert traffic.summary() == "0 connections, 0 messages"
    for event in tap.events:
        traffic.take(event)
    assert traffic.summary() == "1 connection, 1 message"
