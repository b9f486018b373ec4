"""Errors whose text is the line that a user reads."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import inspect
import signal

import pytest

from emu import errors
from emu.errors import CancelledError, CommandError, EmuError, MigrationError, SignalError

ALL = [found for _, found in inspect.getmembers(errors, inspect.isclass)]


@pytest.mark.parametrize("error", ALL)
def test_each_error_is_one_of_the_emulator(error: type[Exception]) -> None:
    """The command line prints no other as one line."""
    assert issubclass(error, EmuError)


def test_a_migrations_error_begins_with_the_phase() -> None:
    error = MigrationError("pre-copy", "does not converge")
    assert (str(error), error.phase) == ("pre-copy: does not converge", "pre-copy")
    assert str(CancelledError()) == "migrate_cancel: cancelled"
    assert isinstance(CancelledError(), MigrationError)


def test_a_commands_error_names_the_peer_and_keeps_the_class() -> None:
    error = CommandError("VM A", "DeviceNotFound", "no such device")
    assert str(error) == "VM A: no such device"
    assert (error.error_class, error.description) == ("DeviceNotFound", "no such device")


def test_a_signal_is_named() -> None:
    error = SignalError(signal.SIGTERM, "SIGTERM")
    assert (str(error), error.signum) == ("ended by SIGTERM", 15)
