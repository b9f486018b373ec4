"""The times of devices and vCPUs in earlier migrations of a VM: the last known costs.

A slow back-end cannot be distinguished from a quick one before it is stopped. So the times of a
migration are kept, by strategy, and expected again of the next one. They move with the VM: the
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
#: Estimated from what is dirty now, not from earlier migrations.
_MEMORY = Phase.FINAL_RAM
#: The phases that no strategy can move out of the blackout.
_RINGS = (Phase.GET_VRING_BASE, Phase.START_VRINGS)


class BlackoutTimes(NamedTuple):
    """The times of one side in one blackout, in nanoseconds.

    Attributes:
        number: of the migration; the larger one is the later one.
        devices: by device and phase, the sum of its spans. What is done for a whole class of
            devices at once has the name of the class.
        wall: from the first device's first step to the last one's last.
        vcpus: all that is not of a device, without memory.
    """

    number: int
    devices: dict[str, dict[Phase, int]]
    wall: int
    vcpus: int

    @classmethod
    def of(cls, number: int, spans: Iterable[Span]) -> Self:
        """The times that the spans of a migration add up to."""
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
        """The cost of each device, in all phases or only in those of its rings."""
        return [
            DeviceCost(besides=sum(ns for p, ns in phases.items() if p in _RINGS or not rings_only))
            for phases in self.devices.values()
        ]


class NotifierCosts(NamedTuple):
    """The times to change notifiers, in nanoseconds; host and guest notifier of a ring together.

    Attributes:
        assign, deassign: each ring, in a commit of many.
        assign_commit, deassign_commit: each commit, in addition.
    """

    assign: int
    assign_commit: int
    deassign: int
    deassign_commit: int


class IdleCosts(NamedTuple):
    """Measured while the guest did not run, and so did not compete, as in a blackout.

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
        self._kept: dict[Side, dict[str, BlackoutTimes]] = {"src": {}, "dst": {}}

    def note(self, side: Side, strategy: str, spans: Iterable[Span]) -> None:
        """Keep the times of this side in the migration that has just completed."""
        numbers = [times.number for kept in self._kept.values() for times in kept.values()]
        self._kept[side][strategy] = BlackoutTimes.of(max(numbers, default=0) + 1, spans)

    def devices(self, side: Side, strategy: Strategy, probed: int = 0, notifiers: int = 0) -> int:
        """Nanoseconds that the devices of a side are expected to take.

        Args:
            side: of the migration.
            strategy: of the migration to come.
            probed: what a probe of the devices expects, in nanoseconds.
            notifiers: what their notifiers are expected to take in addition, in nanoseconds.

        The times under the same strategy take precedence over the probe, which a running guest
        slows down, unless the probe is `WORSE` times as long. The times of each device under
        another strategy, combined as this one works, count if they are longer.
        """
        kept = self._kept[side]
        same = kept.get(strategy.NAME)
        if same is not None:
            return same.wall if probed < WORSE * same.wall else probed + notifiers
        other = min(
            (
                strategy.estimate(times.costs(rings_only=strategy.prepares_ahead))
                for times in kept.values()
                if times.devices
            ),
            default=0,
        )
        return max(probed + notifiers, other)

    def vcpus(self, strategy: Strategy, measured: int = 0) -> int:
        """Nanoseconds of the vCPUs, both sides together.

        The times under the same strategy take precedence, then what was measured of this VM.
        Another strategy may do more in the blackout, or less.
        """
        sides = [kept for kept in self._kept.values() if kept]
        if measured and not all(strategy.NAME in kept for kept in sides):
            return measured
        return sum(
            kept.get(strategy.NAME, max(kept.values(), key=lambda times: times.number)).vcpus
            for kept in sides
        )

    def learn(self, received: JsonObject) -> None:
        """Merge the history of the other side: of each strategy the later migration counts.

        Raises:
            TypeError, ValueError, AttributeError: it is not what `to_json` returns.
        """
        for side, kept in self._kept.items():
            for strategy, (number, devices, wall, vcpus) in received.get(side, {}).items():
                theirs = BlackoutTimes(
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
            side: {strategy: list(times) for strategy, times in kept.items()}
            for side, kept in self._kept.items()
        }
        if self.notifiers is not None:
            document["notifiers"] = list(self.notifiers)
        return document
