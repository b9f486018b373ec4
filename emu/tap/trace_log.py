"""The log as a trace in the Chrome trace event format, which Perfetto opens.

It is written as messages come (`emu.report.trace_format`). A process of the trace is a pair of
sockets, and all devices together. Its tracks are the two channels, and the stops and starts. A
request with a reply is a span, other messages are moments. Spans that overlap lie on further tracks
of the same name.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from emu.report.trace_format import BEGIN, Event, end, line, metadata
from emu.tap.connection import Closed, Unreadable
from emu.tap.message import Message
from emu.tap.transition_table import title

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emu.tap.reader import Record
    from emu.tap.transitions import Transition

_MAIN, _CHANNEL, _TRANSITIONS = "main channel", "back-end channel", "stops and starts"
_ALL = "all devices"
#: Tracks of one name at most; what overlaps more than that is a moment.
MAX_TRACKS = 256


class _Process:
    """A process of the trace: when the last span of each track ends, by number from 1."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.tracks: dict[str, dict[int, int]] = {}
        self.count = 0


class TraceWriter:
    """Turns records, and stops and starts, into lines; `begin` comes before them, `end` after."""

    def __init__(self) -> None:
        self._processes: dict[str, _Process] = {}

    @staticmethod
    def begin() -> str:
        """The line before all others."""
        return BEGIN

    @staticmethod
    def end() -> str:
        """The last line."""
        return end("emu tap")

    def lines_of(self, record: Record) -> list[str]:
        """The lines of a record."""
        return [line(event) for event in self._events_of(record)]

    def lines_of_transition(self, transition: Transition) -> list[str]:
        """The lines of a stop or a start: one span of all devices, and one for each row of each."""
        about = {"devices": len(transition.devices), "rings": transition.rings}
        start, end = transition.start, transition.end
        whole = self._span(_ALL, _TRANSITIONS, start, end, title(transition), about)
        rows = (
            self._span(
                transition.certain[span.device],
                _TRANSITIONS,
                span.start,
                span.end,
                row.phase.title,
                {"device": span.device, "messages": span.messages, "rings": len(span.named)},
            )
            for row in transition.rows
            for span in row.spans
        )
        return [line(event) for event in chain(whole, *rows)]

    def _events_of(self, record: Record) -> Iterator[Event]:
        if isinstance(record, Message):
            yield from self._message(record)
            return
        if isinstance(record, Closed):
            name = f"disconnected: {record.reason or 'by the ' + record.sender.value}"
        elif isinstance(record, Unreadable):
            name = f"no longer decoded: {record.why}"
        else:
            name = "connected"
        connection = record.connection
        about = {"device": connection.name}
        yield from self._moment(connection.pair, _MAIN, record.time, name, about)

    def _message(self, message: Message) -> Iterator[Event]:
        pair = message.pair
        track = _CHANNEL if message.on_channel else _MAIN
        about = {"device": message.device, "sender": message.sender.value, **message.fields}
        if message.violations:
            about["violations"] = message.violations
        request = message.request
        if message.is_reply and request is not None:
            asked = {f"request {name}": value for name, value in request.fields.items()}
            times = request.time, message.time
            yield from self._span(pair, track, *times, message.name, {**asked, **about})
        elif message.is_reply or not message.reply_due:
            yield from self._moment(pair, track, message.time, message.name, about)

    def _span(
        self, process: str, track: str, start: int, end: int, name: str, args: Event
    ) -> Iterator[Event]:
        made, names = self._process(process)
        yield from names
        ends = made.tracks.setdefault(track, {})
        free = next((tid for tid, last in ends.items() if last <= start), None)
        if free is None and len(ends) >= MAX_TRACKS:
            yield from self._moment(process, track, end, name, args)
            return
        if free is None:
            free, events = self._new_track(made, track)
            yield from events
        ends[free] = end
        yield {
            "ph": "X",
            "name": name,
            "cat": track,
            "pid": made.pid,
            "tid": free,
            "ts": start / 1000,
            "dur": (end - start) / 1000,
            "args": args,
        }

    def _moment(self, process: str, track: str, at: int, name: str, args: Event) -> Iterator[Event]:
        made, names = self._process(process)
        yield from names
        ends = made.tracks.setdefault(track, {})
        if not ends:
            tid, events = self._new_track(made, track)
            yield from events
            ends[tid] = 0
        yield {
            "ph": "i",
            "s": "t",
            "name": name,
            "cat": track,
            "pid": made.pid,
            "tid": next(iter(ends)),
            "ts": at / 1000,
            "args": args,
        }

    def _process(self, name: str) -> tuple[_Process, list[Event]]:
        """A process, and the events that name it if it is new."""
        known = self._processes.get(name)
        if known is not None:
            return known, []
        made = self._processes[name] = _Process(len(self._processes) + 1)
        return made, [metadata(made.pid, 0, "process_name", name=name)]

    @staticmethod
    def _new_track(process: _Process, name: str) -> tuple[int, list[Event]]:
        process.count += 1
        tid = process.count
        return tid, [metadata(process.pid, tid, "thread_name", name=name)]
