"""As `split`, with all steps but those of the rings moved out of the blackout."""

from __future__ import annotations

from emu.strategies.split import Split


class Prewired(Split):
    """Notifiers, memory table, sizes and descriptors are sent before the blackout.

    The source's notifiers stay until the destination runs: a paused vCPU sends no kick, and the
    back-end of a stopped ring sends no call.
    """

    NAME = "prewired"
    HELP = "as split, and what does not depend on memory is done while the vCPUs run"
    ASK = "as `split`, but what does not depend on guest memory before the blackout"
    CHANGE = "before the blackout at the destination, after it at the source"
    ORIGIN = "this project"
    prepares_ahead = True
