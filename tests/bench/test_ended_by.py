"""A signal that ends a measurement is returned."""

from __future__ import annotations

import os
import signal

import pytest

from bench.ended_by import ended_by
from emu.errors import ProgramError
from emu.orchestrator.signals import SignalWatcher
from tests.timeouts import TIMEOUT


def test_the_signal_is_returned() -> None:
    """None if there was none."""
    with SignalWatcher() as watcher:
        assert ended_by(watcher.check) is None
        os.kill(os.getpid(), signal.SIGTERM)
        ended = ended_by(lambda: watcher.wait((), TIMEOUT))
    assert ended is not None
    assert ended.signum == signal.SIGTERM


def _fails() -> None:
    raise ProgramError("has ended")


def test_other_errors_are_raised() -> None:
    """The measurement has failed."""
    with pytest.raises(ProgramError):
        ended_by(_fails)
