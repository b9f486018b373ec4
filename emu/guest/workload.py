"""What the guest does of its own accord: the tick of vCPU 0, which starts and paces the loads.

`heavy` keeps itself going: each completion submits the next request, and the tick only begins it.
`light` is paced by the tick: each one makes a request available on the next ring in turn, and
notifies the rings that the tick before has made available (a driver that plugs its
queue), so that some request is in flight nearly all of the time.
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
#: Units that one tick fills at the most: a tick must not hold the heartbeat up.
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
        """One step; returns early when the vCPUs are asked to stop."""
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
        """Drivers that were paused in the middle have not asked for another interrupt."""
        self._context.pulse[RESCAN] = 0
        for unit in self._units:
            if self._context.platform.paused:
                self._context.rescan()
                return
            unit.service()

    def _prime(self) -> None:
        """Fills some more units; the load has begun when all have had their turn."""
        pulse, epoch = self._context.pulse, self._context.control[EPOCH]
        # the epoch that is being primed stands in the upper half of the cursor
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
