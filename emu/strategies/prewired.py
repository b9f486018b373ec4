"""As `split`, with everything that is not the ring itself moved out of the blackout."""

from __future__ import annotations

from emu.strategies.split import Split


class Prewired(Split):
    """Notifiers, memory table, sizes and descriptors before the blackout; tidying after it.

    At the source the notifiers stay until the destination runs: a paused vCPU kicks nobody, and a
    stopped ring calls nobody.
    """

    name = "prewired"
    prepares_ahead = True
