"""Errors whose text is the line that a user reads."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import inspect
import signal

import pytest

from devices.procedure import Phase
from emu import errors
from emu.errors import (
    CancelledError,
    CommandError,
    EmuError,
    MigrationError,
    Operation,
    SignalError,
)

CLASSES = [found for _, found in inspect.getmembers(errors, inspect.isclass)]
ALL = [found for found in CLASSES if issubclass(found, BaseException)]


@pytest.mark.parametrize("error", ALL)
def test_each_error_is_one_of_the_emulator(error: type[Exception]) -> None:
    """The command line prints no other as one line."""
    assert issubclass(error, EmuError)


def test_a_migrations_error_begins_with_what_failed() -> None:
    error = MigrationError(Operation.PRE_COPY, "does not converge")
    assert (str(error), error.operation) == ("pre-copy: does not converge", Operation.PRE_COPY)
    assert str(CancelledError()) == "migrate_cancel: cancelled"
    assert isinstance(CancelledError(), MigrationError)
    assert Operation.LOAD_STATE.value == Phase.LOAD_STATE.value


@pytest.mark.parametrize("text", ["two\nlines", "\x1b[2J", "\ud800", "x" * (1 << 20), "\0" * 5000])
def test_a_migrations_error_is_one_line_whatever_the_other_side_has_sent(text: str) -> None:
    line = str(MigrationError(Operation.DESTINATION, text))
    assert line.isprintable()
    assert len(line) <= len("destination: ") + errors.MAX_REASON


def test_a_commands_error_names_the_peer_and_keeps_the_class() -> None:
    error = CommandError("VM A", "DeviceNotFound", "no such device")
    assert str(error) == "VM A: no such device"
    assert (error.error_class, error.description) == ("DeviceNotFound", "no such device")


def test_a_signal_is_named() -> None:
    error = SignalError(signal.SIGTERM, "SIGTERM")
    assert (str(error), error.signum) == ("ended by SIGTERM", 15)
