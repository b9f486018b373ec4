"""The guest's network driver: the queue pairs of all NICs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.guest.control_page import LIGHT_PACKETS, GuestContext
from emu.guest.driver import Driver
from emu.guest.frames import nic_mac
from emu.guest.layout import RX_BUFFER_BYTES, RX_BUFFERS, UnitPlace
from emu.guest.net_driver import NetPair

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emu.guest.config import GuestConfig

#: Queue pairs that one tick checks for packets that did not come back.
EXPIRE_BATCH = 32
#: This driver's words of the pulse page: the next pair to send, and the next to check.
_LIGHT, _EXPIRE = range(2)


class NicDriver(Driver):
    """All queue pairs; see `Driver`."""

    DATA_BYTES = RX_BUFFERS * RX_BUFFER_BYTES

    queues: list[NetPair]

    def __init__(
        self, context: GuestContext, places: Sequence[UnitPlace], word: int, config: GuestConfig
    ) -> None:
        super().__init__(context, places, word, config)
        nics = 1 + max((place.number for place in places), default=0)
        self.queues = [
            NetPair(
                context,
                place,
                nic_mac(_peer(place.number, nics, switched=config.switched)),
                self._forward,
                event_idx=config.event_idx,
            )
            for place in places
        ]

    def _forward(self, flow: int, sequence: int, pair: int) -> None:
        index = flow - self.queues[0].number
        if 0 <= index < len(self.queues):
            self.queues[index].arrived_on_other_pair(sequence, pair)

    def attach(self) -> None:
        """Have the first NIC announce where the VM is now."""
        for pair in self.queues:
            pair.schedule_announcements()

    def shift_clock(self, ns: int) -> None:
        """Shift the times of the flows' last packets."""
        for pair in self.queues:
            pair.shift_clock(ns)

    def tick(self, now_ns: int) -> None:
        """Send the light load's packets, and expire windows whose packets do not come back."""
        super().tick(now_ns)
        if self.queues:
            self._expire(now_ns)

    def light(self) -> None:
        """Send one packet on each of the next pairs in turn, and on none of them twice."""
        pulse, pairs, cursor = self._context.pulse, self.queues, self._word + _LIGHT
        for _ in range(min(self._context.control[LIGHT_PACKETS], len(pairs))):
            pairs[pulse[cursor] % len(pairs)].send_one()
            pulse[cursor] += 1

    def _expire(self, now_ns: int) -> None:
        pulse, pairs, cursor = self._context.pulse, self.queues, self._word + _EXPIRE
        start, platform = pulse[cursor], self._context.platform
        for index in range(start, start + min(EXPIRE_BATCH, len(pairs))):
            pair = pairs[index % len(pairs)]
            if pair.overdue(now_ns) and not platform.paused:
                pair.expire(now_ns)
        pulse[cursor] = (start + EXPIRE_BATCH) % len(pairs)

    def packets_in_flight(self) -> int:
        """The sum over all pairs."""
        return sum(pair.outstanding() for pair in self.queues)

    def stats(self) -> dict[str, int]:
        """Packets received, and interrupts."""
        totals = [pair.request_log() for pair in self.queues]
        return {
            "packets": sum(total.packets_received for total in totals),
            "interrupts": sum(total.net_interrupts for total in totals),
        }


def _peer(nic: int, nics: int, *, switched: bool) -> int:
    """The NIC that a NIC sends to: itself, or the other one of its pair behind a switch."""
    return nic ^ 1 if switched and nic ^ 1 < nics else nic
