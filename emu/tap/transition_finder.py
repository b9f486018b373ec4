"""Finds stops and starts in the messages of all devices, and divides them.

Each front-end has its own: those of two VMs, or of the two sides of a migration, are apart. One is
over when its devices do the opposite, or when nothing has come for a while: for `SETTLED` if
nothing is missing, otherwise for `QUIET`. One that sets rings up ahead is over, too, when the other
side of the migration has stopped.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from emu.tap.back_end_processes import BackEndProcesses
from emu.tap.connection import Closed, Opened
from emu.tap.message import Message
from emu.tap.transitions import CERTAIN, NEEDED, Kind, Transition, phase_of
from vhost_user.messages import FrontendRequest
from vhost_user.payloads import MAX_RINGS, VRING_F_LOG, VringAddr

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from emu.tap.reader import Record
    from emu.tap.transitions import Phase

#: Nanoseconds without a message after which a stop or a start is over, complete or not. A front-end
#: may work for seconds on the notifiers of some devices before it comes to the next ones.
QUIET = 5_000_000_000
#: The same when no ring of the front-end runs any more, or all that were stopped are set up again.
SETTLED = 1_000_000_000
#: Messages of one stop or start at most.
MAX_MESSAGES = 100_000
#: Nanoseconds from the beginning of a stop within which the start has to end that belongs to it.
RELATED = 60_000_000_000
#: Stops that are remembered for the starts that follow.
_STOPS = 16

_F = FrontendRequest
_STOPS_RING = {_F.GET_VRING_BASE, _F.GET_VRING_BASE_SKIP_DRAIN}
#: Messages that stop all rings of a device, without a message for each.
_RESETS = {_F.RESET_DEVICE, _F.RESET_OWNER}


class TransitionFinder:
    """A sink of a `Reader`.

    Args:
        found: is called with each stop and start when it is over.
    """

    def __init__(self, found: Callable[[Transition], None]) -> None:
        self._found = found
        self._open: dict[tuple[int, Kind], Transition] = {}
        self._last_kind: dict[str, Kind] = {}
        self._fronts: dict[str, int] = {}
        self._running: dict[int, set[tuple[str, int | None]]] = {}
        # By connection and ring: which of `NEEDED` it has got since it was stopped.
        self._given: dict[str, dict[int, set[int]]] = {}
        # By connection: the rings whose last addresses had them log. Requests that have switched
        # the log of a ring that runs, and have no reply yet.
        self._logged: dict[str, set[int]] = {}
        self._log_switches: set[Message] = set()
        self._stops: deque[Transition] = deque(maxlen=_STOPS)
        self._back_ends = BackEndProcesses()
        # Those that were looked at, and which message was the last one then.
        self._incomplete: dict[Transition, int] = {}

    @property
    def due(self) -> int | None:
        """When `finish_quiet` has something to do, CLOCK_MONOTONIC nanoseconds, or None."""
        return min(map(self._due, self._open.values()), default=None)

    def take(self, record: Record) -> None:
        """Look at a record."""
        if isinstance(record, Closed):
            self._note_back_end(record.connection.name)
        self._back_ends.take(record)
        if isinstance(record, Message):
            phase = phase_of(record)
            if phase is not None and (not record.is_reply or record.request is not None):
                self._add(record, phase)
            elif record.id in _RESETS and not record.is_reply and not record.on_channel:
                self._has_stopped(record.device)
        elif isinstance(record, Opened):
            connection = record.connection
            self._fronts[connection.name] = record.front_pid
        elif isinstance(record, Closed):
            self._has_stopped(record.connection.name)
            self._forget(record.connection.name)

    def finish_quiet(self, now: int) -> None:
        """End those in which nothing has come for long enough."""
        over = []
        for transition in self._open.values():
            if self._due(transition) <= now and not self._is_complete(transition):
                self._incomplete[transition] = transition.latest
            if self._due(transition) <= now:
                over.append(transition)
        self._finish(over)

    def finish(self) -> None:
        """End all: the tap ends."""
        self._finish(list(self._open.values()))

    def _due(self, transition: Transition) -> int:
        """When it is over, or when it is time to look whether it is complete."""
        incomplete = self._incomplete.get(transition) == transition.latest
        return transition.latest + (QUIET if incomplete else SETTLED)

    def _is_complete(self, transition: Transition) -> bool:
        if transition.waiting > 0:
            return False
        if transition.kind is Kind.STOP:
            return not self._running.get(transition.front_pid)
        before = self._related(transition)
        return before is not None and transition.rings_set_up >= before.rings_stopped

    def _has_stopped(self, device: str) -> None:
        """Without messages for its rings."""
        self._last_kind.pop(device, None)
        self._given.pop(device, None)
        self._incomplete.clear()
        front = self._fronts.get(device, 0)
        running = self._running.pop(front, set())
        if left := {ring for ring in running if ring[0] != device}:
            self._running[front] = left

    def _forget(self, device: str) -> None:
        """Its connection is closed."""
        self._fronts.pop(device, None)
        self._logged.pop(device, None)
        self._log_switches = {each for each in self._log_switches if each.device != device}

    def _note_back_end(self, device: str) -> None:
        """Remember for what is not over which process has served a device that disconnects."""
        for transition in self._open.values():
            if device in transition.certain:
                transition.back_ends |= self._back_ends.of([device])

    def _add(self, message: Message, phase: Phase) -> None:
        self.finish_quiet(message.time)
        if self._is_log_switch(message):
            return
        front = self._fronts.get(message.device, 0)
        given = None
        if not message.is_reply:
            self._divide(front, phase.kind, message)
            given = self._note_given(message)
        transition = self._open.get((front, phase.kind))
        if message.is_reply:
            request = message.request
            if transition is None or request is None or request.time < transition.start:
                return  # its request belongs to one that is over
        if transition is None:
            transition = self._open[front, phase.kind] = Transition(phase.kind, front)
        transition.add(message, phase, given)

    def _is_log_switch(self, message: Message) -> bool:
        """SET_VRING_ADDR, or its reply, that only switches the dirty log of a ring that runs."""
        if message.is_reply:
            request = message.request
            if request not in self._log_switches:
                return False
            self._log_switches.discard(request)
            return True
        addresses, ring = message.payload, message.ring
        if ring is None or ring >= MAX_RINGS or not isinstance(addresses, VringAddr):
            return False
        rings = self._logged.setdefault(message.device, set())
        before, logs = ring in rings, bool(addresses.flags & VRING_F_LOG)
        (rings.add if logs else rings.discard)(ring)
        runs = self._given.get(message.device, {}).get(ring, set()) >= NEEDED
        if before == logs or not runs:
            return False
        if message.reply_due:
            self._log_switches.add(message)
        return True

    def _note_given(self, message: Message) -> set[int] | None:
        """What its ring has got; None for a message that names none."""
        ring = message.ring
        if ring is None or ring >= MAX_RINGS:
            return None
        rings = self._given.setdefault(message.device, {})
        if message.id in NEEDED:
            rings.setdefault(ring, set()).add(message.id)
        elif message.id in _STOPS_RING and ring in rings:
            # Its addresses stay. The start that it belonged to keeps the set as it was.
            rings[ring] = rings[ring] & {_F.SET_VRING_ADDR}
        return rings.get(ring)

    def _divide(self, front: int, kind: Kind, message: Message) -> None:
        """End what a request cannot belong to, or what it shows to be over."""
        device = message.device
        own = self._open.get((front, kind))
        if own is not None and (
            own.messages >= MAX_MESSAGES
            or (device in own.certain and self._last_kind.get(device) is not kind)
            # Another connection of the same pair has been started already.
            or (
                kind is Kind.START
                and device not in own.certain
                and message.pair in own.certain.values()
            )
            or (own.is_ahead and self._has_stopped_elsewhere(own))
        ):
            self._finish([own])
        if message.id not in CERTAIN:
            return
        start, stop = self._open.get((front, Kind.START)), self._open.get((front, Kind.STOP))
        if kind is Kind.STOP and start is not None and device in start.certain:
            earlier = stop is not None and stop.certain and stop.start < start.start
            self._finish([start, stop] if stop is not None and earlier else [start])
        self._last_kind[device] = kind
        ring = device, message.ring
        if message.id == _F.SET_VRING_KICK:
            self._running.setdefault(front, set()).add(ring)
        elif message.id in _STOPS_RING:
            self._running.get(front, set()).discard(ring)

    def _has_stopped_elsewhere(self, start: Transition) -> bool:
        """Whether devices of another front-end have begun to stop since its last message.

        They are as many as those that the start has set up, if it has begun to: before that a
        front-end may have sent a descriptor for calls, as QEMU does when it realizes a device.
        """
        return any(
            stop.front_pid != start.front_pid
            and stop.start > start.latest
            and stop.certain
            and len(start.certain) in (0, len(stop.certain))
            for stop in self._all_stops()
        )

    def _finish(self, over: Iterable[Transition]) -> None:
        ended = list(over)
        for transition in ended[:]:
            before = self._related(transition) if transition.kind is Kind.START else None
            # A start that is over comes after its stop.
            if before is not None and before in self._open.values() and before not in ended:
                ended.append(before)
        for transition in sorted(ended, key=lambda each: each.start):
            del self._open[transition.front_pid, transition.kind]
            self._incomplete.pop(transition, None)
            if not transition.certain:
                continue
            transition.leave_out_others()
            transition.back_ends = {
                **self._back_ends.of(transition.devices),
                **transition.back_ends,
            }
            if transition.kind is Kind.STOP:
                self._stops.append(transition)
            else:
                transition.before = self._related(transition)
            self._found(transition)

    def _related(self, start: Transition) -> Transition | None:
        """The stop before a start; it may not be over yet.

        It is one of the same front-end and some of the same devices, or one of as many devices of
        another front-end: the other side of a migration.
        """
        if start.is_ahead:
            return None
        candidates = [
            stop
            for stop in self._all_stops()
            if stop.certain
            and 0 <= start.end - stop.start <= RELATED
            and self._belongs(start, stop)
        ]
        return max(candidates, key=lambda stop: stop.start, default=None)

    def _all_stops(self) -> list[Transition]:
        """Those that are over, and those that are not."""
        return [*self._stops, *(each for each in self._open.values() if each.kind is Kind.STOP)]

    def _belongs(self, start: Transition, stop: Transition) -> bool:
        if stop.front_pid != start.front_pid:
            return len(stop.certain) == len(start.certain)
        shared = set(start.certain.values()) & set(stop.certain.values())
        return start.front_pid == 0 or bool(shared)
