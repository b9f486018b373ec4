"""What the guest's driver for one kind of device provides; `GuestProgram` runs one for each kind.

A driver is named in the row of its kind (`emu.config.device_kinds`). All of its state lies in guest
memory: in the `CONTROL_BYTES` beside each ring, in the data buffers of its units, and in its words
of the pulse page.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.guest.control_page import MODE, GuestContext, Mode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from emu.guest.config import GuestConfig
    from emu.guest.control_page import DeviceUnit, QueueUnit, Unit
    from emu.guest.layout import UnitPlace


class Driver:
    """All units (rings, or pairs of them) of one kind of device.

    Args:
        context: guest memory and the machine.
        places: where each unit lies.
        word: first of the `DRIVER_WORDS` words of the pulse page that are this driver's.
        config: what the drivers have negotiated.

    Attributes:
        DATA_BYTES: size of the data buffers of each unit.
        DATA_HIGH: the buffers lie above 4 GiB, in a VM that has memory there.
        queues: the units, in the order of ``places``; each handles its rings' interrupts.

    Raises:
        ShapeError: memory, or a device, is too small.
    """

    DATA_BYTES = 0
    DATA_HIGH = False

    queues: Sequence[QueueUnit] = ()

    def __init__(
        self,
        context: GuestContext,
        places: Sequence[UnitPlace],
        word: int,
        config: GuestConfig,  # noqa: ARG002  for the drivers that need it
    ) -> None:
        self._context = context
        self._places = places
        self._word = word

    @property
    def units(self) -> Sequence[DeviceUnit]:
        """The units that are booted, primed and quiesced: the queues, and others of the driver."""
        return self.queues

    def close(self) -> None:
        """Release guest memory."""
        self.queues = ()

    def handlers(self) -> Iterator[tuple[int, int, Callable[[], None]]]:
        """Device (by its index on the bus), ring, and the handler of the ring's interrupt."""
        for queue in self.queues:
            for ring in range(len(queue.place.rings)):
                yield queue.place.device, queue.place.first_ring + ring, queue.interrupt

    def boot_device(self, device: int) -> None:
        """Write the initial state of one device's units, by its index on the bus."""
        context = self._context
        for unit in self.units:
            if unit.place.device == device:
                with unit.lock:
                    unit.boot()
                    # What was derived from memory, such as which slots are in flight, is stale.
                    context.epoch += 1
                    context.idle.check(unit)

    def queues_of(self, device: int) -> list[QueueUnit]:
        """The queues of one device, by its index on the bus."""
        return [queue for queue in self.queues if queue.place.device == device]

    def restart_device(self, device: int) -> int:  # noqa: ARG002  for the drivers with requests
        """Submit all requests in flight on one device again, by its index on the bus.

        The device is being reset: its rings are empty, and begin at index 0, when this returns.

        Returns:
            How many they are.
        """
        return 0

    def attach(self) -> None:
        """Another process may have written guest memory; the next use derives state from it."""

    def shift_clock(self, ns: int) -> None:
        """Add ``ns`` nanoseconds to all times in memory: they are of another machine's clock."""

    def tick(self, now_ns: int) -> None:  # noqa: ARG002  for drivers with timers
        """Called every millisecond: runs `light` and the driver's timers."""
        context = self._context
        if context.control[MODE] == Mode.LIGHT and self.queues and not context.platform.paused:
            self.light()

    def light(self) -> None:
        """Submit the light load's requests of one tick."""

    def begin_verify(self) -> Sequence[Unit]:
        """Begin to read back what was written; returns the units that do so."""
        return ()

    def verified(self) -> tuple[int, int]:
        """Number of blocks compared, and of those that were wrong, since the guest booted."""
        return 0, 0

    def requests_in_flight(self) -> int:
        """Requests submitted and not yet seen completed."""
        return 0

    def packets_in_flight(self) -> int:
        """Packets sent and not yet received."""
        return 0

    def stats(self) -> dict[str, int]:
        """The guest's share of the counters of the kind's row."""
        return {}
