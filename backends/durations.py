"""Durations as a user writes them: ``20ms``, ``1.5s``, ``300us``, ``2m``."""

from __future__ import annotations

import re

NANOSECONDS = {"ns": 1, "us": 1_000, "ms": 1_000_000, "s": 1_000_000_000, "m": 60_000_000_000}


class DurationError(ValueError):
    """The text is not a duration."""


def parse_duration(text: str) -> int:
    """Nanoseconds of ``20ms``, ``1.5s``, ``300us``, ``2m``, ``0``.

    Raises:
        DurationError: not a duration: without a number or a unit, or negative.
    """
    stripped = text.strip()
    if stripped == "0":
        return 0
    match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*(ns|us|ms|s|m)", stripped)
    if not match:
        raise DurationError(f"{text!r} is not a duration: write it like 20ms, 1.5s or 2m")
    return round(float(match[1]) * NANOSECONDS[match[2]])


def format_duration(nanoseconds: int) -> str:
    """The shortest form: ``20ms``, ``0.375ms``, ``1.5s``, ``2m``."""
    if nanoseconds and nanoseconds % (NANOSECONDS["m"] // 2) == 0:
        return f"{nanoseconds / NANOSECONDS['m']:.12g}m"
    for unit in ("s", "ms", "us"):
        if nanoseconds >= NANOSECONDS[unit]:
            return f"{nanoseconds / NANOSECONDS[unit]:.12g}{unit}"
    return f"{nanoseconds}ns" if nanoseconds else "0"
