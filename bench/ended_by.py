"""Measurements that a signal ends keep what they have measured until then."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.errors import SignalError

if TYPE_CHECKING:
    from collections.abc import Callable


def ended_by(run: Callable[[], object]) -> SignalError | None:
    """Run it; the signal that has ended it, if one has."""
    try:
        run()
    except SignalError as error:
        return error
    return None
