"""The request log: which counters make a run not intact."""

from __future__ import annotations

import pytest

from emu.guest.request_log import RequestLog

ERRORS = {"lost", "duplicated", "corrupted", "errors", "packets_duplicated", "packets_reordered"}


@pytest.mark.parametrize("counter", RequestLog._fields)
def test_a_log_is_intact_without_errors(counter: str) -> None:
    """Lost packets are not an error: a network may lose them."""
    assert RequestLog().intact
    assert RequestLog(**{counter: 1}).intact == (counter not in ERRORS)
