"""Records of trace events as a trace in the Chrome trace event format, which Perfetto opens.

The format is described in "Trace Event Format" (Google, 2016). A process of the trace is a VM
process or a back-end program. Its tracks are the migration, the devices of each class, and each
device: the channel between its two ends. On a track spans of phases contain those of rings, and
these the messages. A message is a short slice where it is sent and where it is received, with a
flow between the two; so is its reply.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict, deque
from typing import TYPE_CHECKING, NamedTuple

from emu.trace_events import COMMIT, MARK, PHASE_END, REQUESTS, ROUND, STATUS, VCPUS
from vhost_user.memory import PAGE_SIZE
from vhost_user.trace_events import BACKEND_READ, BACKEND_WRITE, READ, RING_STATE, WRITE
from vhost_user.tracing import CUT
from vhost_user_conformance.trace_events import CASE, MESSAGE

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from emu.qmp.protocol import JsonObject
    from vhost_user.tracing import Record

#: Nanoseconds that the slice of a message has at most; the message itself takes no time.
_MESSAGE_NS = 1000
#: The checkpoint of QEMU (vmstate_downtime_checkpoint) that the end of a phase corresponds to.
_CHECKPOINTS = {
    "src.pause_vcpus": "src-vm-stopped",
    "src.final_ram": "src-iterable-saved",
    "src.device_state": "src-non-iterable-saved",
    "dst.load_state": "dst-precopy-loadvm-completed",
    "dst.resume_vcpus": "dst-precopy-bh-vm-started",
}
#: Tracks of each process that are not of a device.
_MIGRATION = "migration"
_CASES = "cases"


class _Slice(NamedTuple):
    """A span on a track: nanoseconds, and what it is called and has."""

    start: int
    end: int
    name: str
    category: str
    args: JsonObject
    #: Flows that begin or end in it: phase letter, and number.
    flows: tuple[tuple[str, int], ...] = ()


class _Process:
    """The tracks of one process."""

    def __init__(self, pid: int, name: str) -> None:
        self.pid = pid
        self.name = name
        self.tracks: dict[str, list[_Slice]] = {_MIGRATION: []}
        self.moments: list[tuple[int, str, JsonObject]] = []
        self.counters: list[tuple[int, str, JsonObject]] = []
        self.commits = 0

    def track(self, name: str) -> list[_Slice]:
        """A track, by its name."""
        return self.tracks.setdefault(name, [])


class ChromeTrace:
    """Collects records, and returns the document.

    Args:
        records: of all processes, in any order.

    Attributes:
        cut_ns: when the first process wrote no more records, as there were too many: nanoseconds of
            CLOCK_MONOTONIC. What happened from then on is left out. None if all are there.
        seconds: from the first record to the last one that is shown.
    """

    def __init__(self, records: Iterable[Record]) -> None:
        self._processes: dict[int, _Process] = {}
        self._flows = 0
        # Messages that were sent and not received yet, by device and direction.
        self._sent: dict[tuple[str, str], deque[tuple[str, int]]] = defaultdict(deque)
        handlers = {
            PHASE_END.name: self._phase,
            MARK.name: self._mark,
            COMMIT.name: self._commit,
            ROUND.name: self._round,
            REQUESTS.name: self._requests,
            STATUS.name: self._moment,
            VCPUS.name: self._moment,
            RING_STATE.name: self._moment,
            WRITE.name: self._message,
            READ.name: self._message,
            BACKEND_READ.name: self._message,
            BACKEND_WRITE.name: self._message,
            CASE.name: self._case,
            MESSAGE.name: self._case_message,
        }
        ordered = sorted(records, key=lambda each: each.time_ns)
        self.cut_ns = next((each.time_ns for each in ordered if each.event == CUT), None)
        if self.cut_ns is not None:
            del ordered[bisect_left(ordered, self.cut_ns, key=lambda each: each.time_ns) :]
        self.seconds = (ordered[-1].time_ns - ordered[0].time_ns) / 1e9 if ordered else 0.0
        for record in ordered:
            process = self._processes.get(record.pid)
            if process is None:
                process = self._processes[record.pid] = _Process(record.pid, record.process)
            handler = handlers.get(record.event)
            if handler is not None:
                handler(process, record)

    def _phase(self, process: _Process, record: Record) -> None:
        fields = dict(record.fields)
        phase, start = str(fields.pop("phase")), int(fields.pop("start_ns"))
        end = start + round(float(fields.pop("us")) * 1000)
        device, device_class = fields.get("device"), str(fields["device_class"])
        if device_class == "vm":
            track = _MIGRATION
        else:
            track = device_class if device is None else str(device)
        fields["thread"] = record.tid
        process.track(track).append(_Slice(start, end, phase, "phase", fields))
        checkpoint = _CHECKPOINTS.get(phase)
        if checkpoint is not None and fields["in_blackout"]:
            process.moments.append((end, checkpoint, {}))

    def _mark(self, process: _Process, record: Record) -> None:
        name, at = str(record.fields["mark"]), int(record.fields["at_ns"])
        process.moments.append((at, name, {}))
        if name == "pause_start_ns":
            process.moments.append((at, "src-downtime-start", {}))

    def _commit(self, process: _Process, record: Record) -> None:
        process.commits += 1
        process.counters.append((record.time_ns, "commits", {"commits": process.commits}))

    def _round(self, process: _Process, record: Record) -> None:
        pages = int(record.fields["remaining"]) // PAGE_SIZE
        process.counters.append((record.time_ns, "dirty pages", {"pages": pages}))

    def _requests(self, process: _Process, record: Record) -> None:
        requests = {"requests": int(record.fields["in_flight"])}
        process.counters.append((record.time_ns, "requests in flight", requests))

    def _moment(self, process: _Process, record: Record) -> None:
        name = record.event
        for field in ("status", "state"):
            if field in record.fields:
                name = f"{name} {record.fields[field]}"
        process.moments.append((record.time_ns, name, record.fields))

    def _message(self, process: _Process, record: Record) -> None:
        device, message = str(record.fields["device"]), str(record.fields["message"])
        # A back-end program names its devices by the file of the socket: A-blk0.sock is blk0 of A.
        at_back_end = record.event in (BACKEND_READ.name, BACKEND_WRITE.name)
        side, _, own = device.partition("-") if at_back_end else (process.name[-1], "", device)
        sends = record.event in (WRITE.name, BACKEND_WRITE.name)
        direction = "request" if record.event in (WRITE.name, BACKEND_READ.name) else "reply"
        waiting = self._sent[f"{side}-{own}", direction]
        flows: tuple[tuple[str, int], ...] = ()
        if sends:
            self._flows += 1
            waiting.append((message, self._flows))
            flows = (("s", self._flows),)
        elif message in (name for name, _ in waiting):
            while waiting[0][0] != message:
                waiting.popleft()  # it was not received: its connection has broken
            flows = (("f", waiting.popleft()[1]),)
        text = message if direction == "request" else f"{message} reply"
        start = record.time_ns
        piece = _Slice(start, start + _MESSAGE_NS, text, "message", record.fields, flows)
        process.track(own).append(piece)

    def _case(self, process: _Process, record: Record) -> None:
        fields = dict(record.fields)
        start = int(fields.pop("start_ns"))
        end = start + round(float(fields.pop("us")) * 1000)
        name = str(fields.pop("case"))
        process.track(_CASES).append(_Slice(start, end, name, "case", fields))

    def _case_message(self, process: _Process, record: Record) -> None:
        message, second, *_ = f"{record.fields['message']}  ".split(" ")
        name = f"{message} reply" if second == "reply" else message
        end = record.time_ns + _MESSAGE_NS
        piece = _Slice(record.time_ns, end, name, "message", record.fields)
        process.track(_CASES).append(piece)

    def to_json(self) -> JsonObject:
        """The document: ``traceEvents`` in the order of their time, after the names."""
        names: list[JsonObject] = []
        events: list[JsonObject] = []
        for order, process in enumerate(sorted(self._processes.values(), key=_order)):
            pid = process.pid
            names.append(_metadata(pid, 0, "process_name", name=process.name))
            names.append(_metadata(pid, 0, "process_sort_index", sort_index=order))
            rows = [(name, row) for name, track in process.tracks.items() for row in _rows(track)]
            for tid, (name, row) in enumerate(rows or [(_MIGRATION, [])], 1):
                names.append(_metadata(pid, tid, "thread_name", name=name))
                names.append(_metadata(pid, tid, "thread_sort_index", sort_index=tid))
                for piece in row:
                    events += _events_of(pid, tid, piece)
            for at, name, args in process.moments:
                moment = {"ph": "i", "s": "p", "cat": "moment", "name": name, "args": args}
                events.append({**moment, "ts": at / 1000, "pid": pid, "tid": 1})
            for at, name, args in process.counters:
                counter = {"ph": "C", "name": name, "args": args, "ts": at / 1000}
                events.append({**counter, "pid": pid, "tid": 1})
        events.sort(key=lambda event: event["ts"])
        return {"traceEvents": [*names, *events], "displayTimeUnit": "ns"}


def _order(process: _Process) -> tuple[str, bool, str]:
    """VM processes before their back-ends, side by side; the command itself comes first."""
    side = process.name[-1] if process.name[-2:-1] == "-" else ""
    return side, process.name.startswith("back-end"), process.name


def _rows(slices: Sequence[_Slice]) -> list[list[_Slice]]:
    """The slices of a track, in rows in which each lies within another one, or beside it.

    Slices that begin together are in the order of their length. A message is shortened so that it
    ends before anything else on its track begins or ends.
    """
    ordered = sorted(slices, key=lambda piece: (piece.start, -piece.end))
    bounds = sorted({bound for piece in ordered for bound in _bounds(piece)})
    rows: list[list[_Slice]] = []
    open_ends: list[list[int]] = []
    for piece in ordered:
        if piece.category == "message":
            after = bisect_right(bounds, piece.start)
            if after < len(bounds):
                piece = piece._replace(end=min(piece.end, bounds[after]))  # noqa: PLW2901
        for row, ends in zip(rows, open_ends, strict=True):
            while ends and ends[-1] <= piece.start:
                ends.pop()
            if not ends or piece.end <= ends[-1]:
                row.append(piece)
                ends.append(piece.end)
                break
        else:
            rows.append([piece])
            open_ends.append([piece.end])
    return rows


def _bounds(piece: _Slice) -> tuple[int, ...]:
    return (piece.start,) if piece.category == "message" else (piece.start, piece.end)


def _events_of(pid: int, tid: int, piece: _Slice) -> Iterable[JsonObject]:
    place = {"pid": pid, "tid": tid, "ts": piece.start / 1000}
    yield {
        "ph": "X",
        "name": piece.name,
        "cat": piece.category,
        "dur": (piece.end - piece.start) / 1000,
        "args": piece.args,
        **place,
    }
    for letter, number in piece.flows:
        flow: JsonObject = {"ph": letter, "name": "message", "cat": "flow", "id": number, **place}
        if letter == "f":
            flow["bp"] = "e"
        yield flow


def _metadata(pid: int, tid: int, kind: str, **args: object) -> JsonObject:
    return {"ph": "M", "name": kind, "pid": pid, "tid": tid, "ts": 0, "args": args}
