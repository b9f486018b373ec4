"""Handover within one host: the destination gets the running devices, which are not stopped."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.strategies.prewired import Prewired

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emu.strategies.base import DeviceCost


class Handover(Prewired):
    """Memory, connections and eventfds are sent to the destination by SCM_RIGHTS.

    The back-ends are neither stopped nor reconnected, and no memory is copied
    (`emu.migration.handover` implements both sides). This strategy changes only the notifiers of
    the two machines, outside of the blackout.
    """

    NAME = "handover"
    HELP = "memory, sockets and eventfds are handed over, no device stops (one host)"
    ASK = "none: no message is sent to the back-ends"
    CHANGE = "as `prewired`"
    ORIGIN = "this project; for two processes of one host"
    hands_over = True

    def estimate(self, costs: Sequence[DeviceCost]) -> int:  # noqa: ARG002
        """Zero: no message is sent to a device."""
        return 0
