"""Within one host: the devices are passed to the destination without being stopped."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.strategies.prewired import Prewired

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emu.strategies.base import DeviceCost


class Handover(Prewired):
    """Memory, connections and eventfds go to the destination by SCM_RIGHTS.

    The back-ends are neither stopped nor reconnected, and no memory is copied
    (`emu.migration.handover` implements both sides). Only the notifiers of the two machines are
    left to drive, and those outside of the blackout.
    """

    NAME = "handover"
    HELP = "memory, sockets and eventfds are passed on, no device stops (one host)"
    ASK = "none: nothing is sent to the back-ends"
    CHANGE = "as `prewired`"
    ORIGIN = "this project; for two processes of one host"
    hands_over = True

    def estimate(self, costs: Sequence[DeviceCost]) -> int:  # noqa: ARG002
        """Nothing is sent to a device."""
        return 0
