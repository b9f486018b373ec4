"""Stops and starts of devices, as far as the wire shows them: the rows of the RFC's table.

A stop is a time in which a front-end sends GET_VRING_BASE, a start one in which it sets rings up;
`emu.tap.transition_finder` divides them. Commits of notifiers, the pause of vCPUs and guest memory
do not show on the wire.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import TYPE_CHECKING

from vhost_user.messages import FrontendRequest
from vhost_user.payloads import VringState

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emu.tap.back_end_processes import BackEnd
    from emu.tap.message import Message

_F = FrontendRequest


class Kind(StrEnum):
    """What the devices do."""

    STOP = "stop"
    START = "start"


class Phase(Enum):
    """A row. The last three have the names that the RFC's table has."""

    DISABLE_VRINGS = "disable vrings", Kind.STOP
    GET_VRING_BASE = "get vring base", Kind.STOP
    SET_MEM_TABLE = "set mem table", Kind.START
    START_VRINGS = "start vrings", Kind.START

    @property
    def title(self) -> str:
        """Its name in tables and JSON."""
        return self.value[0]

    @property
    def kind(self) -> Kind:
        """What it is a part of."""
        return self.value[1]


_PHASES: dict[int, Phase] = {
    _F.GET_VRING_BASE: Phase.GET_VRING_BASE,
    _F.GET_VRING_BASE_SKIP_DRAIN: Phase.GET_VRING_BASE,
    **dict.fromkeys((_F.SET_MEM_TABLE, _F.ADD_MEM_REG, _F.REM_MEM_REG), Phase.SET_MEM_TABLE),
    **dict.fromkeys(
        (
            _F.SET_VRING_NUM,
            _F.SET_VRING_ADDR,
            _F.SET_VRING_BASE,
            _F.SET_VRING_KICK,
            _F.SET_VRING_CALL,
            _F.SET_VRING_ERR,
            _F.SET_VRING_ENABLE,
        ),
        Phase.START_VRINGS,
    ),
}
#: Messages that occur in stops and starts only. The others are sent at other times, too: a new
#: memory region, a masked vector, the dirty log.
CERTAIN = {
    _F.GET_VRING_BASE,
    _F.GET_VRING_BASE_SKIP_DRAIN,
    _F.SET_VRING_BASE,
    _F.SET_VRING_KICK,
}
#: Messages that a ring needs before it runs. Those that are set up before a blackout lack the base:
#: it is known when the rings of the other side have stopped.
NEEDED = {_F.SET_VRING_ADDR, _F.SET_VRING_BASE, _F.SET_VRING_KICK}


def phase_of(message: Message) -> Phase | None:
    """The row that a message of the front-end belongs to."""
    if message.on_channel:
        return None
    if message.id == _F.SET_VRING_ENABLE:
        asked = message.request if message.is_reply else message
        disables = asked and isinstance(asked.payload, VringState) and not asked.payload.num
        return Phase.DISABLE_VRINGS if disables else Phase.START_VRINGS
    return _PHASES.get(message.id)


@dataclass(slots=True)
class Span:
    """One row of one device.

    Attributes:
        phase: the row.
        device: name of the connection.
        start, end: CLOCK_MONOTONIC, nanoseconds: the first message and the last message or reply.
        messages: requests.
        latencies: nanoseconds of each reply, in order.
        rings: nanoseconds of the reply for each ring that a replied message named.
        named: all rings that a message named.
    """

    phase: Phase
    device: str
    start: int
    end: int
    messages: int = 0
    latencies: list[int] = field(default_factory=list)
    rings: dict[int, int] = field(default_factory=dict)
    named: set[int] = field(default_factory=set)

    @property
    def busy(self) -> int:
        """Nanoseconds in which a reply was due, added up."""
        return sum(self.latencies)

    @property
    def wall(self) -> int:
        """Nanoseconds from the first message to the end."""
        return self.end - self.start


@dataclass(slots=True)
class Row:
    """One row of all devices.

    Attributes:
        phase: the row.
        spans: of the devices, in the order of their starts.
    """

    phase: Phase
    spans: list[Span]

    @property
    def wall(self) -> int:
        """Nanoseconds from the first start to the last end."""
        return max(span.end for span in self.spans) - min(span.start for span in self.spans)

    @property
    def busy(self) -> int:
        """Nanoseconds in which replies were due, added up."""
        return sum(span.busy for span in self.spans)

    @property
    def messages(self) -> int:
        """Requests."""
        return sum(span.messages for span in self.spans)

    @property
    def at_once(self) -> int:
        """How many devices were in this row at the same time, at most; 1 is serial."""
        edges = [(span.start, 1) for span in self.spans]
        edges += [(span.end, -1) for span in self.spans]
        now = most = 0
        for _, change in sorted(edges):  # an end comes before a start at the same time
            now += change
            most = max(most, now)
        return max(most, 1)


class Transition:
    """A stop or a start of devices of one front-end.

    Attributes:
        kind: which of the two.
        front_pid: the front-end's process; 0 if unknown.
        spans: by row and device.
        before: the stop that a start belongs to, or None.
        certain: the devices with a message that occurs in stops and starts only, and the names of
            their pairs.
        messages: requests.
        waiting: requests whose replies are due.
        latest: nanoseconds, of the last message or reply.
        can_run: a ring has all messages that it needs.
        back_ends: of the devices, once it is over, or their connections are.
    """

    def __init__(self, kind: Kind, front_pid: int = 0) -> None:
        self.kind = kind
        self.front_pid = front_pid
        self.spans: dict[tuple[Phase, str], Span] = {}
        self.before: Transition | None = None
        self.certain: dict[str, str] = {}
        self.messages = 0
        self.waiting = 0
        self.latest = 0
        self.can_run = False
        self.back_ends: dict[str, BackEnd] = {}
        self._set_up: dict[tuple[str, int], set[int]] = {}

    @property
    def devices(self) -> list[str]:
        """Names, in the order of their first messages."""
        return list(dict.fromkeys(device for _, device in self.spans))

    @property
    def rings(self) -> int:
        """How many rings messages have named."""
        named: dict[str, set[int]] = {}
        for span in self.spans.values():
            named.setdefault(span.device, set()).update(span.named)
        return sum(map(len, named.values()))

    @property
    def rings_stopped(self) -> int:
        """How many rings were stopped; others, which a driver does not use, are only disabled."""
        return sum(len(span.named) for span in self._spans_of(Phase.GET_VRING_BASE))

    @property
    def rings_set_up(self) -> int:
        """How many rings have all that they need to run."""
        return sum(1 for known in self._set_up.values() if known >= NEEDED)

    @property
    def is_ahead(self) -> bool:
        """A start that sets rings up while the VM still runs elsewhere: none can run after it."""
        return self.kind is Kind.START and not self.can_run

    @property
    def start(self) -> int:
        """Nanoseconds, of its first message."""
        return min(span.start for span in self.spans.values())

    @property
    def end(self) -> int:
        """Nanoseconds, of its last message or reply."""
        return max(span.end for span in self.spans.values())

    @property
    def rows(self) -> list[Row]:
        """In the order of `Phase`."""
        made = [
            Row(phase, sorted(self._spans_of(phase), key=lambda span: span.start))
            for phase in Phase
        ]
        return [row for row in made if row.spans]

    @property
    def is_migration(self) -> bool:
        """A start of other devices than those that were stopped before, by another front-end."""
        before = self.before
        if before is None or 0 != before.front_pid == self.front_pid:
            return False
        return not set(self.devices) & set(before.devices)

    def add(self, message: Message, phase: Phase, given: set[int] | None = None) -> None:
        """Add a request or a reply.

        Args:
            message: it.
            phase: its row.
            given: the ids of `NEEDED` that its ring has, including this one; None without a ring.
        """
        span = self.spans.get((phase, message.device))
        if span is None:
            asked = message.request.time if message.request else message.time
            span = Span(phase, message.device, asked, message.time)
            self.spans[phase, message.device] = span
        span.end = max(span.end, message.time)
        self.latest = max(self.latest, message.time)
        if message.is_reply:
            self.waiting -= 1
            if message.latency is not None and message.request is not None:
                span.latencies.append(message.latency)
                if message.request.ring is not None:
                    span.rings[message.request.ring] = message.latency
            return
        span.messages += 1
        self.messages += 1
        self.waiting += message.reply_due
        if message.id in CERTAIN:
            self.certain[message.device] = message.pair
        if message.ring is not None:
            span.named.add(message.ring)
            if given is not None:
                self._set_up[message.device, message.ring] = given
                self.can_run = self.can_run or given >= NEEDED

    def leave_out_others(self) -> None:
        """Leave out the devices that neither stop nor start."""
        for key in [key for key in self.spans if key[1] not in self.certain]:
            del self.spans[key]

    def _spans_of(self, phase: Phase) -> Iterator[Span]:
        return (span for (of, _), span in self.spans.items() if of is phase)
