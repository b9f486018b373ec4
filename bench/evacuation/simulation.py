"""A simulation of the evacuation of a host: VMs migrate in parallel, and share cores and a link.

A migration is a sequence of phases. A phase takes a time when it is alone, and meanwhile uses so
many cores and such a part of the link. If the phases that run at one time want more than there is,
all of them that want it run slower by the same factor. Between two ends of phases all speeds are
constant, so the simulation goes from one end to the next and is exact.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Parts of a phase that are left, below which it has ended.
_NOTHING = 1e-9


class Phase(NamedTuple):
    """A part of a migration.

    Attributes:
        seconds: that it takes alone.
        cores: that it uses meanwhile.
        link: the part of the link that it uses meanwhile, 0 to 1.
        blackout: the VM is down meanwhile.
    """

    seconds: float
    cores: float
    link: float = 0.0
    blackout: bool = False


class Host(NamedTuple):
    """What the migrations share.

    Attributes:
        cores: their number.
        parallel: the most migrations at one time.
        others: cores that other work of the host wants all the time, with the same priority.
    """

    cores: float
    parallel: int
    others: float = 0.0


class Migrated(NamedTuple):
    """A migration of the simulation: when it began and ended, and its downtime, in seconds."""

    begin: float
    end: float
    downtime: float


@dataclass(slots=True)
class _Running:
    phases: deque[Phase]
    begin: float
    number: int
    #: The part of the first phase that is left.
    left: float = 1.0
    downtime: float = 0.0
    speed: float = field(default=1.0)

    @property
    def phase(self) -> Phase:
        return self.phases[0]

    @property
    def ends_in(self) -> float:
        return self.left * self.phase.seconds / self.speed

    def advance(self, seconds: float) -> None:
        if self.phase.blackout:
            self.downtime += seconds
        if self.phase.seconds:
            self.left -= seconds * self.speed / self.phase.seconds
        else:
            self.left = 0.0
        if self.left <= _NOTHING:
            self.phases.popleft()
            self.left = 1.0


def simulate(migrations: Sequence[Sequence[Phase]], host: Host) -> list[Migrated]:
    """The migrations, begun in their order as soon as others have ended.

    Args:
        migrations: the phases of each.
        host: what they share.
    """
    waiting = deque(enumerate(migrations))
    running: list[_Running] = []
    ended: dict[int, Migrated] = {}
    now = 0.0
    while waiting or running:
        while waiting and len(running) < host.parallel:
            number, phases = waiting.popleft()
            running.append(_Running(deque(phases), now, number))
        _set_speeds(running, host)
        step = min(each.ends_in for each in running)
        now += step
        for each in running:
            each.advance(step)
        for each in running:
            if not each.phases:
                ended[each.number] = Migrated(each.begin, now, each.downtime)
        running = [each for each in running if each.phases]
    return [ended[number] for number in range(len(migrations))]


def _set_speeds(running: Sequence[_Running], host: Host) -> None:
    cores = host.others + sum(each.phase.cores for each in running)
    link = sum(each.phase.link for each in running)
    for each in running:
        each.speed = 1.0
        if each.phase.cores and cores > host.cores:
            each.speed = host.cores / cores
        if each.phase.link and link > 1:
            each.speed = min(each.speed, 1 / link)
