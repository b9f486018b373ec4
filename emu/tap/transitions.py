"""Stops and starts of devices, as far as the wire shows them: the rows of the RFC's table.

A stop is a time in which front-ends send GET_VRING_BASE, a start one in which they set rings up. It
ends when no such message comes for `QUIET`, or when one of its devices does the opposite and then
the same again. Commits of notifiers, the pause of vCPUs and guest memory do not show on the wire.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import TYPE_CHECKING

from emu.tap.connection import Closed
from emu.tap.message import Message
from vhost_user.messages import FrontendRequest
from vhost_user.payloads import VringState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from emu.tap.reader import Record

_F = FrontendRequest
#: Nanoseconds without a message after which a stop or a start is over. A front-end may work that
#: long on one device's notifiers before it comes to the next device.
QUIET = 1_000_000_000
#: Messages of one stop or start at most.
MAX_MESSAGES = 100_000
#: Nanoseconds from the end of a stop within which a start belongs to it.
RELATED = 60_000_000_000


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
_CERTAIN = {
    _F.GET_VRING_BASE,
    _F.GET_VRING_BASE_SKIP_DRAIN,
    _F.SET_VRING_BASE,
    _F.SET_VRING_KICK,
}


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
    """A stop or a start of some devices.

    Attributes:
        kind: which of the two.
        spans: by row and device.
        before: the stop that a start belongs to, or None.
        certain: the devices with a message that occurs in stops and starts only.
        messages: requests.
    """

    def __init__(self, kind: Kind, before: Transition | None = None) -> None:
        self.kind = kind
        self.spans: dict[tuple[Phase, str], Span] = {}
        self.before = before
        self.certain: set[str] = set()
        self.messages = 0

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
        """A start of other devices than those that were stopped before."""
        return self.before is not None and not set(self.devices) & set(self.before.devices)

    def add(self, message: Message, phase: Phase) -> None:
        """Add a request or a reply."""
        span = self.spans.get((phase, message.device))
        if span is None:
            asked = message.request.time if message.request else message.time
            span = Span(phase, message.device, asked, message.time)
            self.spans[phase, message.device] = span
        span.end = max(span.end, message.time)
        if message.is_reply:
            if message.latency is not None and message.request is not None:
                span.latencies.append(message.latency)
                if message.request.ring is not None:
                    span.rings[message.request.ring] = message.latency
            return
        span.messages += 1
        self.messages += 1
        if message.id in _CERTAIN:
            self.certain.add(message.device)
        if message.ring is not None:
            span.named.add(message.ring)

    def leave_out_others(self) -> None:
        """Leave out the devices that neither stop nor start."""
        for key in [key for key in self.spans if key[1] not in self.certain]:
            del self.spans[key]

    def _spans_of(self, phase: Phase) -> Iterator[Span]:
        return (span for (of, _), span in self.spans.items() if of is phase)


class TransitionFinder:
    """Finds stops and starts in the messages of all devices; a sink of a `Reader`.

    Args:
        found: is called with each one when it is over.
    """

    def __init__(self, found: Callable[[Transition], None]) -> None:
        self._found = found
        self._open: dict[Kind, Transition] = {}
        self._last_kind: dict[str, Kind] = {}
        self._last_stop: Transition | None = None

    @property
    def due(self) -> int | None:
        """When `finish_quiet` has something to do, CLOCK_MONOTONIC nanoseconds, or None."""
        return min((each.end + QUIET for each in self._open.values()), default=None)

    def take(self, record: Record) -> None:
        """Look at a record."""
        if isinstance(record, Message):
            phase = phase_of(record)
            if phase is not None and (not record.is_reply or record.request is not None):
                self._add(record, phase)
        elif isinstance(record, Closed):
            self._last_kind.pop(record.connection.name, None)

    def finish_quiet(self, now: int) -> None:
        """End those in which nothing has come for `QUIET`."""
        self._finish([each for each in self._open.values() if each.end + QUIET <= now])

    def finish(self) -> None:
        """End all: the tap ends."""
        self._finish(list(self._open.values()))

    def _add(self, message: Message, phase: Phase) -> None:
        self.finish_quiet(message.time)
        kind, device = phase.kind, message.device
        transition = self._open.get(kind)
        if not message.is_reply:
            again = transition is not None and device in transition.certain
            if transition is not None and (
                (again and self._last_kind.get(device) is not kind)
                or transition.messages >= MAX_MESSAGES
            ):
                self._finish([transition])
                transition = None
            if message.id in _CERTAIN:
                self._last_kind[device] = kind
        if transition is None:
            if message.is_reply:
                return  # its request belongs to one that is over
            transition = self._open[kind] = Transition(kind)
        transition.add(message, phase)

    def _finish(self, over: Iterable[Transition]) -> None:
        for transition in sorted(over, key=lambda each: each.start):
            del self._open[transition.kind]
            if not transition.certain:
                continue
            transition.leave_out_others()
            if transition.kind is Kind.STOP:
                self._last_stop = transition
            else:
                transition.before = self._related(transition)
            self._found(transition)

    def _related(self, start: Transition) -> Transition | None:
        """The stop before a start; it may not be over yet."""
        stop = self._open.get(Kind.STOP, self._last_stop)
        if stop is None or not stop.certain or not 0 <= start.end - stop.start <= RELATED:
            return None
        return stop
