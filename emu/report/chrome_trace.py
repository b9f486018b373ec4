"""Records of trace events as events of the Chrome trace event format, which Perfetto opens.

They are made record by record, in the order of time. A process of the trace is a VM process or a
back-end program. Its tracks are the migration, the devices of each class, and each device: the
channel between its two ends. On a track spans of phases contain those of rings, and these the
messages. A message is a short slice where it is sent and where it is received, with a flow between
the two; so is its reply.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict, deque
from typing import TYPE_CHECKING, NamedTuple

from emu.report.trace_format import Event, metadata
from emu.trace_events import COMMIT, MARK, PHASE_END, REQUESTS, ROUND, STATUS, VCPUS
from vhost_user.memory import PAGE_SIZE
from vhost_user.trace_events import BACKEND_READ, BACKEND_WRITE, READ, RING_STATE, WRITE
from vhost_user_conformance.trace_events import CASE, MESSAGE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vhost_user.tracing import Record

#: Nanoseconds of the slice of a message, which itself takes no time. To emit an event takes longer:
#: the slice ends before what follows.
MESSAGE_NS = 100
#: Rows of a track at most; a span that overlaps one in each of them is a moment.
MAX_ROWS = 256
#: Spans that a row remembers, to see whether a later one contains them.
MAX_SPANS = 1024
#: Messages of a device that were sent and not received; the oldest is forgotten first.
MAX_SENT = 4096
#: Processes that are remembered; the one whose last record is the oldest is forgotten first.
MAX_PROCESSES = 1024
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
#: The row of a process with its moments and counters: the first one of the migration.
_FIRST = 1


class _Slice(NamedTuple):
    """A span on a track: nanoseconds, and what it is called and has."""

    start: int
    end: int
    name: str
    category: str
    args: Event
    #: A flow that begins or ends in it: phase letter, and number.
    flow: tuple[str, int] | None = None


class _Row:
    """A row of a track: its spans lie within each other, or beside each other."""

    def __init__(self, tid: int) -> None:
        self.tid = tid
        # Those that no other one contains, in the order of time.
        self._spans: list[tuple[int, int]] = []
        self._forgotten_until = 0

    def take(self, start: int, end: int) -> bool:
        """Add a span that contains others or lies beside them, or return False."""
        spans = self._spans
        last = len(spans)
        while last and spans[last - 1][0] >= end:
            last -= 1
        first = last
        while first and spans[first - 1][1] > start:
            first -= 1
            if spans[first][0] < start or spans[first][1] > end:
                return False
        if not first and start < self._forgotten_until:
            return False
        spans[first:last] = [(start, end)]
        if len(spans) > MAX_SPANS:
            half = len(spans) // 2
            self._forgotten_until = spans[half - 1][1]
            del spans[:half]
        return True


class _Process:
    """The tracks of one process."""

    def __init__(self, pid: int, name: str) -> None:
        self.pid = pid
        self.name = name
        self.tracks: dict[str, list[_Row]] = {_MIGRATION: [_Row(_FIRST)]}
        self.rows = 1
        self.commits = 0

    def names(self, order: int) -> Iterator[Event]:
        """The events that name the process and its first track."""
        yield metadata(self.pid, 0, "process_name", name=self.name)
        yield metadata(self.pid, 0, "process_sort_index", sort_index=order)
        yield from self._row_names(_FIRST, _MIGRATION)

    def place(self, piece: _Slice, track: str) -> Iterator[Event]:
        """The events of a slice, and of the row that is new for it."""
        rows = self.tracks.setdefault(track, [])
        row = next((row for row in rows if row.take(piece.start, piece.end)), None)
        if row is None:
            if len(rows) == MAX_ROWS:
                yield self.moment(piece.end, piece.name, piece.args)
                return
            self.rows += 1
            row = _Row(self.rows)
            row.take(piece.start, piece.end)
            rows.append(row)
            yield from self._row_names(row.tid, track)
        yield from _events_of(self.pid, row.tid, piece)

    def moment(self, at: int, name: str, args: Event) -> Event:
        """An instant event of the process."""
        moment = {"ph": "i", "s": "p", "cat": "moment", "name": name, "args": args}
        return {**moment, "ts": at / 1000, "pid": self.pid, "tid": _FIRST}

    def counter(self, at: int, name: str, **values: int) -> Event:
        """The value of a counter from now on."""
        counter = {"ph": "C", "name": name, "args": values, "ts": at / 1000}
        return {**counter, "pid": self.pid, "tid": _FIRST}

    def _row_names(self, tid: int, track: str) -> Iterator[Event]:
        yield metadata(self.pid, tid, "thread_name", name=track)
        order = list(self.tracks).index(track) * MAX_ROWS + len(self.tracks[track])
        yield metadata(self.pid, tid, "thread_sort_index", sort_index=order)


class ChromeTrace:
    """Turns records into events; what it remembers of them is bounded."""

    def __init__(self) -> None:
        self._processes: OrderedDict[tuple[int, str], _Process] = OrderedDict()
        self._flows = 0
        # Messages that were sent and not received yet, by device and direction.
        self._sent: dict[tuple[str, str], deque[tuple[str, int]]] = defaultdict(
            lambda: deque(maxlen=MAX_SENT)
        )
        self._handlers = {
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

    def events_of(self, record: Record) -> Iterator[Event]:
        """The events of a record: the next one in the order of time, as far as that is known."""
        key = record.pid, record.process
        process = self._processes.get(key)
        if process is None:
            process = self._processes[key] = _Process(*key)
            if len(self._processes) > MAX_PROCESSES:
                self._processes.popitem(last=False)
            yield from process.names(_order(record.process))
        else:
            self._processes.move_to_end(key)
        handler = self._handlers.get(record.event)
        if handler is not None:
            yield from handler(process, record)

    @staticmethod
    def _phase(process: _Process, record: Record) -> Iterator[Event]:
        fields = dict(record.fields)
        phase, start = str(fields.pop("phase")), int(fields.pop("start_ns"))
        end = start + round(float(fields.pop("us")) * 1000)
        device, device_class = fields.get("device"), str(fields["device_class"])
        if device_class == "vm":
            track = _MIGRATION
        else:
            track = device_class if device is None else str(device)
        fields["thread"] = record.tid
        yield from process.place(_Slice(start, end, phase, "phase", fields), track)
        checkpoint = _CHECKPOINTS.get(phase)
        if checkpoint is not None and fields["in_blackout"]:
            yield process.moment(end, checkpoint, {})

    @staticmethod
    def _mark(process: _Process, record: Record) -> Iterator[Event]:
        name, at = str(record.fields["mark"]), int(record.fields["at_ns"])
        yield process.moment(at, name, {})
        if name == "pause_start_ns":
            yield process.moment(at, "src-downtime-start", {})

    @staticmethod
    def _commit(process: _Process, record: Record) -> Iterator[Event]:
        process.commits += 1
        yield process.counter(record.time_ns, "commits", commits=process.commits)

    @staticmethod
    def _round(process: _Process, record: Record) -> Iterator[Event]:
        pages = int(record.fields["remaining"]) // PAGE_SIZE
        yield process.counter(record.time_ns, "dirty pages", pages=pages)

    @staticmethod
    def _requests(process: _Process, record: Record) -> Iterator[Event]:
        requests = int(record.fields["in_flight"])
        yield process.counter(record.time_ns, "requests in flight", requests=requests)

    @staticmethod
    def _moment(process: _Process, record: Record) -> Iterator[Event]:
        name = record.event
        for field in ("status", "state"):
            if field in record.fields:
                name = f"{name} {record.fields[field]}"
        yield process.moment(record.time_ns, name, record.fields)

    def _message(self, process: _Process, record: Record) -> Iterator[Event]:
        device, message = str(record.fields["device"]), str(record.fields["message"])
        # A back-end program names its devices by the file of the socket: A-blk0.sock is blk0 of A.
        at_back_end = record.event in (BACKEND_READ.name, BACKEND_WRITE.name)
        side, _, own = device.partition("-") if at_back_end else (process.name[-1], "", device)
        sends = record.event in (WRITE.name, BACKEND_WRITE.name)
        direction = "request" if record.event in (WRITE.name, BACKEND_READ.name) else "reply"
        waiting = self._sent[f"{side}-{own}", direction]
        flow: tuple[str, int] | None = None
        if sends:
            self._flows += 1
            waiting.append((message, self._flows))
            flow = "s", self._flows
        elif message in (name for name, _ in waiting):
            while waiting[0][0] != message:
                waiting.popleft()  # it was not received: its connection has broken
            flow = "f", waiting.popleft()[1]
        text = message if direction == "request" else f"{message} reply"
        start = record.time_ns
        piece = _Slice(start, start + MESSAGE_NS, text, "message", record.fields, flow)
        yield from process.place(piece, own)

    @staticmethod
    def _case(process: _Process, record: Record) -> Iterator[Event]:
        fields = dict(record.fields)
        start = int(fields.pop("start_ns"))
        end = start + round(float(fields.pop("us")) * 1000)
        name = str(fields.pop("case"))
        yield from process.place(_Slice(start, end, name, "case", fields), _CASES)

    @staticmethod
    def _case_message(process: _Process, record: Record) -> Iterator[Event]:
        message, second, *_ = f"{record.fields['message']}  ".split(" ")
        name = f"{message} reply" if second == "reply" else message
        end = record.time_ns + MESSAGE_NS
        piece = _Slice(record.time_ns, end, name, "message", record.fields)
        yield from process.place(piece, _CASES)


def _order(name: str) -> int:
    """VM processes before their back-ends, side by side; the command itself comes first."""
    side = ord(name[-1]) if name[-2:-1] == "-" else 0
    return 2 * side + name.startswith("back-end")


def _events_of(pid: int, tid: int, piece: _Slice) -> Iterator[Event]:
    place = {"pid": pid, "tid": tid, "ts": piece.start / 1000}
    yield {
        "ph": "X",
        "name": piece.name,
        "cat": piece.category,
        "dur": (piece.end - piece.start) / 1000,
        "args": piece.args,
        **place,
    }
    if piece.flow is not None:
        letter, number = piece.flow
        flow: Event = {"ph": letter, "name": "message", "cat": "flow", "id": number, **place}
        if letter == "f":
            flow["bp"] = "e"
        yield flow
