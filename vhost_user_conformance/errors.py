"""Errors of the suite. Their text is the one line that a user reads."""

from __future__ import annotations


class ConformanceError(Exception):
    """Base of the errors that the suite raises on purpose."""


class OptionError(ConformanceError):
    """An option has an invalid value: a usage error."""


class PeerError(ConformanceError):
    """The peer under test cannot be started, or cannot be reached."""
