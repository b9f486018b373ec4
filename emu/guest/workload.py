"""The guest's loads: the tick of vCPU 0 starts and paces them.

In `heavy` each completion submits the next request, and the tick submits only the first ones.
`light` is paced by the tick: each tick makes a request available on the next ring in turn, and
notifies the ring of the tick before (as a driver does that plugs its queue), so that a request is
in flight nearly all of the time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.guest.control_page import (
    DIRTY_RATE,
    EPOCH,
    PRIME_AT,
    PRIMED,
    RESCAN,
    GuestContext,
    Unit,
)
from emu.guest.dirty_memory_load import DirtyMemoryLoad
from vhost_user.memory import PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emu.guest.driver import Driver

TICK_NS = 1_000_000
#: Units that one tick fills at the most: a tick must not delay the heartbeat.
PRIME_BATCH = 32


class Workload:
    """The tick's work on the units.

    Args:
        context: guest memory and the machine.
        units: all of them, in the order in which a load begins.
        drivers: of all kinds of devices.
    """

    def __init__(
        self, context: GuestContext, units: Sequence[Unit], drivers: Sequence[Driver]
    ) -> None:
        self._context = context
        self._units = units
        self._drivers = drivers
        self.dirty_memory = DirtyMemoryLoad(context)

    def tick(self, now_ns: int) -> None:
        """Run one tick; returns early when the vCPUs are to pause."""
        context = self._context
        pulse, control = context.pulse, context.control
        if pulse[RESCAN]:
            self._rescan()
        if pulse[PRIMED] != control[EPOCH]:
            self._prime()
        for driver in self._drivers:
            driver.tick(now_ns)
        if control[DIRTY_RATE]:
            self.dirty_memory.tick(now_ns)
        context.mark(context.layout.pulse, PAGE_SIZE)

    def _rescan(self) -> None:
        """Poll all units: a driver that a pause interrupted has not enabled its interrupt."""
        self._context.pulse[RESCAN] = 0
        for unit in self._units:
            if self._context.platform.paused:
                self._context.rescan()
                return
            unit.service()

    def _prime(self) -> None:
        """Fill some more units; the load has begun when all have been filled."""
        pulse, epoch = self._context.pulse, self._context.control[EPOCH]
        # the upper half of the cursor is the epoch that is being primed
        at = pulse[PRIME_AT]
        index = at & 0xFFFF_FFFF if at >> 32 == epoch & 0xFFFF_FFFF else 0
        for _ in range(PRIME_BATCH):
            if index >= len(self._units):
                pulse[PRIMED] = epoch
                return
            if self._context.platform.paused:
                break
            self._units[index].prime()
            index += 1
        pulse[PRIME_AT] = (epoch & 0xFFFF_FFFF) << 32 | index
