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
    EXPIRE_AT,
    LIGHT_BLK,
    LIGHT_NET,
    LIGHT_PACKETS,
    LIGHT_REQUESTS,
    MODE,
    PLUGGED,
    PRIME_AT,
    PRIMED,
    RESCAN,
    GuestContext,
    Mode,
    Unit,
)
from emu.guest.dirty_memory_load import DirtyMemoryLoad
from vhost_user.memory import PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from emu.guest.blk_driver import BlkRing
    from emu.guest.disk_reader import DiskReader
    from emu.guest.net_driver import NetPair

TICK_NS = 1_000_000
#: Units that one tick fills at the most: a tick must not hold the heartbeat up.
PRIME_BATCH = 32
#: Queue pairs that one tick looks at for packets that did not return.
EXPIRE_BATCH = 32


class Workload:
    """The tick's work on the units.

    Args:
        context: guest memory and the machine.
        units: all of them.
        disks: those of ``units`` that are disk rings under the block workload.
        pairs: those that are queue pairs.
        reader: the disk reader, if there is one.
    """

    def __init__(
        self,
        context: GuestContext,
        units: Sequence[Unit],
        disks: Sequence[BlkRing],
        pairs: Sequence[NetPair],
        reader: DiskReader | None,
    ) -> None:
        self._context = context
        self._units = units
        self._disks = disks
        self._pairs = pairs
        self._reader = reader
        self.dirty_memory = DirtyMemoryLoad(context)

    def tick(self, now_ns: int) -> None:
        """One step; returns early when the vCPUs are asked to stop."""
        context = self._context
        pulse, control = context.pulse, context.control
        if pulse[RESCAN]:
            self._rescan()
        if pulse[PRIMED] != control[EPOCH]:
            self._prime()
        if pulse[PLUGGED]:
            self._unplug()
        if control[MODE] == Mode.LIGHT and not context.platform.paused:
            self._light()
        if self._reader is not None and self._reader.woken():
            self._reader.service()
        if control[DIRTY_RATE]:
            self.dirty_memory.tick(now_ns)
        if self._pairs:
            self._expire(now_ns)
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

    def _unplug(self) -> None:
        """Kicks the rings that the last tick has given requests."""
        pulse, disks = self._context.pulse, self._disks
        end, count = pulse[LIGHT_BLK], pulse[PLUGGED]
        for index in range(end - count, end):
            disks[index % len(disks)].kick()
        pulse[PLUGGED] = 0

    def _light(self) -> None:
        pulse, control = self._context.pulse, self._context.control
        if self._disks:
            count = min(control[LIGHT_REQUESTS], len(self._disks))
            pulse[PLUGGED] = self._turn(LIGHT_BLK, count, self._submit)
        if self._pairs:
            self._turn(LIGHT_NET, control[LIGHT_PACKETS], self._send)

    def _turn(self, cursor: int, count: int, act: Callable[[int], bool]) -> int:
        """Lets the next ``count`` act in turn; the cursor moves on after each."""
        pulse = self._context.pulse
        for _ in range(count):
            act(pulse[cursor])
            pulse[cursor] += 1
        return count

    def _submit(self, index: int) -> bool:
        return self._disks[index % len(self._disks)].submit_one()

    def _send(self, index: int) -> bool:
        return self._pairs[index % len(self._pairs)].send_one()

    def _expire(self, now_ns: int) -> None:
        pulse, pairs = self._context.pulse, self._pairs
        start, paused = pulse[EXPIRE_AT], self._context.platform
        for index in range(start, start + min(EXPIRE_BATCH, len(pairs))):
            pair = pairs[index % len(pairs)]
            if pair.overdue(now_ns) and not paused.paused:
                pair.expire(now_ns)
        pulse[EXPIRE_AT] = (start + EXPIRE_BATCH) % len(pairs)
