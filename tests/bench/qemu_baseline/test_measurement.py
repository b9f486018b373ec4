"""Waits for what has no event; the peer tests of the command measure VMs."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import pytest

from bench.qemu_baseline.measurement import look_until
from emu.errors import EmuError
from emu.orchestrator.signals import SignalWatcher


def test_a_condition_is_looked_at_until_it_holds() -> None:
    looks = iter([False, False, True])
    with SignalWatcher() as watcher:
        look_until(lambda: next(looks), "it", 60.0, watcher)
    assert list(looks) == []


def test_a_condition_that_does_not_hold_is_named() -> None:
    with SignalWatcher() as watcher, pytest.raises(EmuError, match=r"waited 0\.01 s for a beat"):
        look_until(lambda: False, "a beat", 0.01, watcher)
