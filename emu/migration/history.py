"""The times of devices and vCPUs in earlier migrations of a VM: the last known costs.

A back-end that is slow to stop cannot be recognised before it is stopped. So the times of a
migration are kept, by strategy, as the expectation for the next one. Each side has a history; the
destination sends its own to the source before the last decision.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Self

from devices.procedure import Phase
from emu.json_input import Map, Members, Row, Whole
from emu.strategies.base import DeviceCost

if TYPE_CHECKING:
    from collections.abc import Iterable

    from devices.procedure import Side
    from emu.qmp.protocol import JsonObject
    from emu.strategies.base import Strategy
    from emu.strategies.timeline import Span

#: Nanoseconds in a message.
NS = Whole(-(1 << 62), 1 << 62)
_PHASES = Map(NS)
_SIDE = Map(Row(Whole(most=1 << 32), Map(_PHASES), NS, _PHASES))
#: `History.to_json`.
SHAPE = Members({}, {"src": _SIDE, "dst": _SIDE, "notifiers": Row(NS, NS, NS, NS)})
#: If a probe takes this many times as long as the recorded time, the devices have changed.
CHANGED_FACTOR = 3
#: Estimated from the memory that is dirty now, not from earlier migrations.
_MEMORY = Phase.FINAL_RAM
#: The phases that no strategy can move out of the blackout.
_RINGS = (Phase.GET_VRING_BASE, Phase.START_VRINGS)


class BlackoutTimes(NamedTuple):
    """The times of one side in one blackout, in nanoseconds.

    Attributes:
        number: of the migration; the larger one is the later one.
        devices: by device and phase, the sum of its spans. A span of a whole class of devices has
            the name of the class.
        wall: from the beginning of the first device's first span to the end of the last span.
        vcpus: by phase, the spans that belong to no device, without memory.
    """

    number: int
    devices: dict[str, dict[Phase, int]]
    wall: int
    vcpus: dict[Phase, int]

    @classmethod
    def of(cls, number: int, spans: Iterable[Span]) -> Self:
        """The times of a migration, summed up from its spans."""
        devices: dict[str, dict[Phase, int]] = {}
        inside = [span for span in spans if span.in_blackout]
        own = [span for span in inside if span.device_class != "vm"]
        for span in own:
            phases = devices.setdefault(span.device or span.device_class, {})
            phases[span.phase] = phases.get(span.phase, 0) + span.end - span.start
        wall = max(s.end for s in own) - min(s.start for s in own) if own else 0
        vcpus = {
            span.phase: span.end - span.start
            for span in inside
            if span.device_class == "vm" and span.phase != _MEMORY
        }
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
        assign, deassign: for each ring, in a commit of many.
        assign_commit, deassign_commit: in addition, for each commit of host notifiers and the
            commit of the same rings' guest notifiers.
    """

    assign: int
    assign_commit: int
    deassign: int
    deassign_commit: int


class IdleCosts(NamedTuple):
    """Costs that were measured while the guest did not run, as in a blackout.

    Attributes:
        round_trips: nanoseconds from a message to its reply, by device.
        share: nanoseconds of a message while many are in flight.
        state: nanoseconds to save the state of vCPUs and devices.
    """

    round_trips: dict[str, int]
    share: int
    state: int


class History:
    """The last known costs of a VM, by side and strategy.

    Attributes:
        idle: costs of this process's devices; None until they are measured.
        notifiers: costs of this process's machine, or else the other side's; None if neither is
            known.
    """

    def __init__(self) -> None:
        self.idle: IdleCosts | None = None
        self.notifiers: NotifierCosts | None = None
        self._kept: dict[Side, dict[str, BlackoutTimes]] = {"src": {}, "dst": {}}

    def record(self, side: Side, strategy: str, spans: Iterable[Span]) -> None:
        """Keep the times of this side in the migration that has just completed."""
        numbers = [times.number for kept in self._kept.values() for times in kept.values()]
        self._kept[side][strategy] = BlackoutTimes.of(max(numbers, default=0) + 1, spans)

    def devices(self, side: Side, strategy: Strategy, probed: int = 0, notifiers: int = 0) -> int:
        """Nanoseconds that the devices of a side are expected to take.

        Args:
            side: of the migration.
            strategy: of the next migration.
            probed: nanoseconds that a probe of the devices predicts.
            notifiers: nanoseconds that their notifiers are expected to take in addition.

        The times under the same strategy take precedence over the probe, which a running guest
        slows down, unless the probe is `CHANGED_FACTOR` times as long. If the strategy changes no
        notifiers in the blackout, so does the estimate from the rings' times under another
        strategy. Otherwise the longer of the probe and the estimate from the devices' times counts.
        """
        kept = self._kept[side]
        same = kept.get(strategy.NAME)
        if same is not None:
            return same.wall if probed < CHANGED_FACTOR * same.wall else probed + notifiers
        other = min(
            (
                strategy.estimate(times.costs(rings_only=strategy.prepares_ahead))
                for times in kept.values()
                if times.devices
            ),
            default=0,
        )
        if strategy.prepares_ahead and probed < CHANGED_FACTOR * other:
            return other
        return max(probed + notifiers, other)

    def vcpus(self, strategy: Strategy, measured: int = 0) -> int:
        """Nanoseconds that the vCPUs are expected to take, both sides together.

        The times under the same strategy take precedence, then ``measured``, then the times of the
        latest migration. A strategy that prepares the destination ahead loads the state of the
        vCPUs into memory that is warm: that takes about as long as to save it.
        """
        sides = [kept for kept in self._kept.values() if kept]
        known = all(strategy.NAME in kept for kept in sides)
        if measured and not known:
            return measured
        phases: dict[Phase, int] = {}
        for kept in sides:
            latest = max(kept.values(), key=lambda times: times.number)
            phases |= kept.get(strategy.NAME, latest).vcpus
        if strategy.prepares_ahead and not known and Phase.DEVICE_STATE in phases:
            load = phases.get(Phase.LOAD_STATE, 0)
            phases[Phase.LOAD_STATE] = min(load, phases[Phase.DEVICE_STATE])
        return sum(phases.values())

    def merge(self, received: JsonObject) -> None:
        """Merge the history of the other side: the later migration with each strategy counts.

        Args:
            received: has the shape `SHAPE`.

        Raises:
            ValueError: a phase is unknown.
        """
        for side, kept in self._kept.items():
            for strategy, (number, devices, wall, vcpus) in received.get(side, {}).items():
                theirs = BlackoutTimes(
                    number,
                    {
                        name: {Phase(phase): ns for phase, ns in phases.items()}
                        for name, phases in devices.items()
                    },
                    wall,
                    {Phase(phase): ns for phase, ns in vcpus.items()},
                )
                ours = kept.get(strategy)
                if ours is None or ours.number < theirs.number:
                    kept[strategy] = theirs
        notifiers = received.get("notifiers")
        if self.notifiers is None and notifiers is not None:
            self.notifiers = NotifierCosts(*notifiers)

    def to_json(self) -> JsonObject:
        """The history as sent to the other side."""
        document: JsonObject = {
            side: {strategy: list(times) for strategy, times in kept.items()}
            for side, kept in self._kept.items()
        }
        if self.notifiers is not None:
            document["notifiers"] = list(self.notifiers)
        return document
