"""The guest's block driver: the rings of all disks, and the reader of a user's disk."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from emu.config.vm_spec import ShapeError
from emu.guest.blk_driver import BlkRing
from emu.guest.config import BlkFeatures
from emu.guest.control_page import LIGHT_REQUESTS, GuestContext
from emu.guest.disk_reader import DiskReader
from emu.guest.driver import Driver
from emu.guest.layout import BLK_SLOTS, BLOCK, SERIAL_BYTES, UnitPlace, scratch_bytes
from vhost_user.virtio.blk import SECTOR_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from emu.guest.blk_state import Generation
    from emu.guest.config import GuestConfig
    from emu.guest.control_page import DeviceUnit, Unit

#: This driver's words of the pulse page: the next ring to get a request, and how many rings before
#: it have requests that were not kicked yet.
_LIGHT, _PLUGGED = range(2)


class DiskDriver(Driver):
    """All disk rings; see `Driver`.

    Attributes:
        queues: the rings that are under the stamped workload.
        reader: reads ``blk0`` in full, when it is a user's disk.
    """

    DATA_BYTES = BLK_SLOTS * BLOCK
    DATA_HIGH = True

    queues: list[BlkRing]

    def __init__(
        self, context: GuestContext, places: Sequence[UnitPlace], word: int, config: GuestConfig
    ) -> None:
        super().__init__(context, places, word, config)
        self.reader = self._make_reader(config)
        self.queues = [
            self._make_ring(place, config)
            for place in places
            if self.reader is None or place.number
        ]

    @property
    def units(self) -> Sequence[DeviceUnit]:
        """The rings under the stamped workload, and the reader."""
        return self.queues if self.reader is None else [*self.queues, self.reader]

    def _make_reader(self, config: GuestConfig) -> DiskReader | None:
        if config.reader is None:
            return None
        places = [place for place in self._places if place.number == 0]
        if not places:
            raise ShapeError("blk0 is to be read, but the guest uses none of its rings")
        return DiskReader(
            self._context,
            places,
            config.reader.capacity,
            write=config.reader.write,
            event_idx=config.event_idx,
        )

    def _make_ring(self, place: UnitPlace, config: GuestConfig) -> BlkRing:
        features = config.disks[place.number : place.number + 1]
        disk = features[0] if features else BlkFeatures()
        needed = scratch_bytes(place.position + 1) // SECTOR_SIZE
        if disk.capacity is not None and disk.capacity < needed:
            raise ShapeError(
                f"blk{place.number} has {disk.capacity} sectors; "
                f"the workload of {place.position + 1} rings needs {needed}"
            )
        return BlkRing(
            self._context, place, disk, event_idx=config.event_idx, indirect=config.indirect
        )

    def handlers(self) -> Iterator[tuple[int, int, Callable[[], None]]]:
        """Those of the rings under the stamped workload, and of all rings of the reader's disk."""
        yield from super().handlers()
        if self.reader is not None:
            places = [place for place in self._places if place.number == 0]
            for index, place in enumerate(places):
                handler = functools.partial(self.reader.interrupt, index)
                yield place.device, place.position, handler

    def restart_device(self, device: int) -> int:
        """See `Driver.restart_device`; the reader's disk, too."""
        again = sum(ring.restart() for ring in self.queues if ring.place.device == device)
        if self.reader is not None and any(
            place.device == device and place.number == 0 for place in self._places
        ):
            again += self.reader.restart()
        return again

    def tick(self, now_ns: int) -> None:
        """Kick what the last tick has submitted, submit more, and have a woken reader read."""
        if self._context.pulse[self._word + _PLUGGED]:
            self._unplug()
        super().tick(now_ns)
        if self.reader is not None and self.reader.woken():
            self.reader.service()

    def _unplug(self) -> None:
        """Kick the rings to which the last tick submitted requests."""
        pulse, rings = self._context.pulse, self.queues
        # No more than `light` has submitted, whatever memory has come from a migration.
        end, count = pulse[self._word + _LIGHT], min(pulse[self._word + _PLUGGED], len(rings))
        for index in range(end - count, end):
            rings[index % len(rings)].kick()
        pulse[self._word + _PLUGGED] = 0

    def light(self) -> None:
        """One request on each of the next rings in turn, without a kick until the next tick."""
        pulse, rings, cursor = self._context.pulse, self.queues, self._word + _LIGHT
        count = min(self._context.control[LIGHT_REQUESTS], len(rings))
        for _ in range(count):
            rings[pulse[cursor] % len(rings)].submit_one()
            pulse[cursor] += 1
        pulse[self._word + _PLUGGED] = count

    def begin_verify(self) -> Sequence[Unit]:
        """Start all rings under the stamped workload at their first block."""
        rings = [ring for ring in self.queues if ring.accepting]
        for ring in rings:
            ring.begin_verify()
        return rings

    def verified(self) -> tuple[int, int]:
        """The sums over all rings under the stamped workload."""
        return sum(ring.checked for ring in self.queues), sum(
            ring.corrupted for ring in self.queues
        )

    def requests_in_flight(self) -> int:
        """The sum over all rings, and the reader's."""
        reader = 0 if self.reader is None else self.reader.outstanding()
        return reader + sum(ring.outstanding() for ring in self.queues)

    def stats(self) -> dict[str, int]:
        """Requests completed, and interrupts."""
        totals = [unit.request_log() for unit in self.units]
        return {
            "requests": sum(total.completed for total in totals),
            "interrupts": sum(total.blk_interrupts for total in totals),
        }

    def generations(self, disk: int) -> dict[int, Generation]:
        """What each block of a disk holds, by its index; empty for a disk that is only read."""
        found: dict[int, Generation] = {}
        for ring in self.queues:
            if ring.place.number == disk:
                found.update(ring.generations())
        return found

    def serial(self, disk: int) -> str:
        """The result of GET_ID of a disk; empty before that request has completed."""
        for place in self._places:
            if place.number == disk:
                gpa = self._context.layout.serials + SERIAL_BYTES * place.device
                raw = bytes(self._context.platform.ram.view(gpa, 20))
                return raw.rstrip(b"\0").decode("ascii", "replace")
        return ""
