"""What devices and vCPUs took in earlier migrations of a VM: the last known costs.

A slow back-end cannot be distinguished from a quick one before it is stopped. So what
a migration took is kept, by strategy, and expected again of the next one. It goes with the VM: the
destination sends its own to the source before the last decision.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Self

from devices.procedure import Phase
from emu.strategies.base import DeviceCost

if TYPE_CHECKING:
    from collections.abc import Iterable

    from devices.procedure import Side
    from emu.qmp.protocol import JsonObject
    from emu.strategies.base import Strategy
    from emu.strategies.timeline import Span

#: A probe that takes so many times as long as before means that the devices have changed.
WORSE = 3
#: It is expected by what is dirty, not by what was.
_MEMORY = Phase.FINAL_RAM
#: What no strategy can move out of the blackout.
_RINGS = (Phase.GET_VRING_BASE, Phase.START_VRINGS)


class Taken(NamedTuple):
    """What one side took in one blackout, in nanoseconds.

    Attributes:
        number: migrations are counted, so that of two of them the later one is known.
        devices: by device and phase, the sum of its spans. What is done for a whole class of
            devices at once stands under the name of the class.
        wall: from the first device's first step to the last one's last.
        vcpus: what belongs to no device, memory left out.
    """

    number: int
    devices: dict[str, dict[Phase, int]]
    wall: int
    vcpus: int

    @classmethod
    def of(cls, number: int, spans: Iterable[Span]) -> Self:
        """What the spans of a blackout come to."""
        devices: dict[str, dict[Phase, int]] = {}
        inside = [span for span in spans if span.in_blackout]
        own = [span for span in inside if span.device_class != "vm"]
        for span in own:
            phases = devices.setdefault(span.device or span.device_class, {})
            phases[span.phase] = phases.get(span.phase, 0) + span.end - span.start
        wall = max(s.end for s in own) - min(s.start for s in own) if own else 0
        vcpus = sum(
            span.end - span.start
            for span in inside
            if span.device_class == "vm" and span.phase != _MEMORY
        )
        return cls(number, devices, wall, vcpus)

    def costs(self, *, rings_only: bool) -> list[DeviceCost]:
        """Of each device, in all phases or in those alone that are about its rings."""
        return [
            DeviceCost(besides=sum(ns for p, ns in phases.items() if p in _RINGS or not rings_only))
            for phases in self.devices.values()
        ]


class NotifierCosts(NamedTuple):
    """What notifiers take, in nanoseconds; host and guest notifier of a ring together.

    Attributes:
        assign, deassign: each ring, in a commit of many.
        assign_commit, deassign_commit: each commit besides.
    """

    assign: int
    assign_commit: int
    deassign: int
    deassign_commit: int


class IdleCosts(NamedTuple):
    """What was measured while the guest did not run, and so did not compete, as in a blackout.

    Attributes:
        round_trips: of a message and its reply, by device; nanoseconds.
        share: nanoseconds of a message while many are in flight.
        state: nanoseconds to save the state of vCPUs and devices.
    """

    round_trips: dict[str, int]
    share: int
    state: int


class History:
    """The last known costs of a VM, by side and strategy.

    Attributes:
        idle: of the devices that this process has, once they were measured.
        notifiers: of this process's machine, or of the other side's if that is all that is known.
    """

    def __init__(self) -> None:
        self.idle: IdleCosts | None = None
        self.notifiers: NotifierCosts | None = None
        self._taken: dict[Side, dict[str, Taken]] = {"src": {}, "dst": {}}

    def note(self, side: Side, strategy: str, spans: Iterable[Span]) -> None:
        """Keep what this side has taken in the migration that has just completed."""
        numbers = [taken.number for kept in self._taken.values() for taken in kept.values()]
        self._taken[side][strategy] = Taken.of(max(numbers, default=0) + 1, spans)

    def devices(self, side: Side, strategy: Strategy, probed: int = 0, notifiers: int = 0) -> int:
        """Nanoseconds that the devices of a side are expected to take.

        Args:
            side: of the migration.
            strategy: of the migration to come.
            probed: what a probe of the devices expects, in nanoseconds.
            notifiers: what their notifiers are expected to take besides.

        What they took under the same strategy is believed before the probe, which a running
        guest slows down, unless that takes `WORSE` times as long. What each of them took under
        another strategy, combined in this one's way, counts if it is longer.
        """
        kept = self._taken[side]
        same = kept.get(strategy.NAME)
        if same is not None:
            return same.wall if probed < WORSE * same.wall else probed + notifiers
        other = min(
            (
                strategy.estimate(taken.costs(rings_only=strategy.prepares_ahead))
                for taken in kept.values()
                if taken.devices
            ),
            default=0,
        )
        return max(probed + notifiers, other)

    def vcpus(self, strategy: Strategy, measured: int = 0) -> int:
        """Nanoseconds of the vCPUs, both sides together.

        What they took under the same strategy is believed first, then what was measured of this
        VM. Another strategy may leave more to the blackout, or less.
        """
        sides = [kept for kept in self._taken.values() if kept]
        if measured and not all(strategy.NAME in kept for kept in sides):
            return measured
        return sum(
            kept.get(strategy.NAME, max(kept.values(), key=lambda taken: taken.number)).vcpus
            for kept in sides
        )

    def learn(self, received: JsonObject) -> None:
        """Take over what the other side knows, where it is the later.

        Raises:
            TypeError, ValueError, AttributeError: it is not what `to_json` returns.
        """
        for side, kept in self._taken.items():
            for strategy, (number, devices, wall, vcpus) in received.get(side, {}).items():
                theirs = Taken(
                    int(number),
                    {
                        str(name): {Phase(phase): int(ns) for phase, ns in phases.items()}
                        for name, phases in devices.items()
                    },
                    int(wall),
                    int(vcpus),
                )
                ours = kept.get(strategy)
                if ours is None or ours.number < theirs.number:
                    kept[strategy] = theirs
        notifiers = received.get("notifiers")
        if self.notifiers is None and notifiers is not None:
            self.notifiers = NotifierCosts(*map(int, notifiers))

    def to_json(self) -> JsonObject:
        """For the other side."""
        document: JsonObject = {
            side: {strategy: list(taken) for strategy, taken in kept.items()}
            for side, kept in self._taken.items()
        }
        if self.notifiers is not None:
            document["notifiers"] = list(self.notifiers)
        return document
