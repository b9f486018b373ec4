"""As `split`; steps that do not depend on the contents of memory run outside of the blackout."""

from __future__ import annotations

from emu.strategies.split import Split


class Prewired(Split):
    """Prepares the destination's devices before the blackout; within it, rings only stop and start.

    Before the blackout, the destination assigns its notifiers, and sends the memory table and those
    messages of the rings that `devices.lifecycle.start_ahead` can send then. The source deassigns
    its notifiers after the blackout. During the blackout they have no effect: a paused vCPU sends
    no kick, and the back-end of a stopped ring sends no call.
    """

    NAME = "prewired"
    HELP = "as split; steps that do not depend on memory contents run outside of the blackout"
    ASK = (
        "as `split`; messages that do not depend on the contents of memory are sent before the "
        "blackout"
    )
    CHANGE = "before the blackout at the destination, after it at the source"
    ORIGIN = "this project"
    prepares_ahead = True
