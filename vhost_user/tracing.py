"""Trace events: what happens, one line per event, in the manner of QEMU's ``-trace``.

A module defines its events with `event`, which adds them to `EVENTS`. An event is off until
`enable` (or `configure_from_environment`) names it; the code that emits one asks first::

    if WRITE.enabled:
        WRITE.emit(device=name, ring=ring, request=row.name)

so an event that is off costs one attribute look-up. A line has the time (CLOCK_MONOTONIC, seconds,
the same clock in all processes of a host), the process, the event, and its fields::

    7421.083512 A vhost_user_write device=blk0 ring=2 message=GET_VRING_BASE size=8

Processes that are started by a traced one are traced as well: `environment` has what they need.
A line is written by one ``write``, so that lines of several processes do not mix.

For a program that reads the trace, `enable_records` keeps the events in memory, which takes less
time than a line. They are written as JSON (`Record`) by another thread when there is a pause, and
when the process ends.
"""

from __future__ import annotations

import atexit
import json
import os
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, NamedTuple

from vhost_user.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

#: Patterns of event names; the descriptor to write to; the name of the process in each line.
PATTERNS_VARIABLE = "EMU_TRACE"
FD_VARIABLE = "EMU_TRACE_FD"
PROCESS_VARIABLE = "EMU_TRACE_PROCESS"
#: Set where the descriptor gets records.
RECORDS_VARIABLE = "EMU_TRACE_RECORDS"
#: Records that are kept at most: the thread that emits one more writes them.
KEPT_RECORDS = 50_000
#: Records are written when none was added for this time: not in the middle of a stop or a start.
PAUSE_NS = 250_000_000
#: Records are written when the first one is this old, also without a pause.
LONGEST_NS = 3_000_000_000
#: Bytes of one packet of records, about.
_CHUNK = 1 << 16
#: The packet after those of a process that could not write all its records.
LOST = b"lost"

_STDERR = 2


@dataclass(slots=True)
class TraceEvent:
    """One kind of event.

    Attributes:
        name: as patterns match it.
        fields: names of its fields, in the order in which a line has them.
        help: when it happens; a sentence for the documents.
        enabled: `emit` is to be called. Set by `enable` only.
    """

    name: str
    fields: tuple[str, ...]
    help: str
    enabled: bool = False

    def emit(self, **values: object) -> None:
        """Write the event's line. A field that is None is left out."""
        records = _output.records  # another thread may call `disable`
        if records is not None:
            records.append((time.monotonic_ns(), threading.get_native_id(), self, values))
            if not _output.kept.is_set():
                _announce(records)
            if len(records) >= KEPT_RECORDS:
                write_records()
            return
        parts = [
            f" {field}={_text(values[field])}" for field in self.fields if values[field] is not None
        ]
        line = f"{stamp(time.monotonic_ns())} {_output.process} {self.name}{''.join(parts)}\n"
        try:
            os.write(_output.fd, line.encode())
        except OSError as error:  # a full disk, or a reader that has gone, does not end the program
            _output.failure = _output.failure or error


def stamp(time_ns: int) -> str:
    """Nanoseconds of CLOCK_MONOTONIC as the time of a line: seconds with six digits."""
    seconds, rest = divmod(time_ns, 1_000_000_000)
    return f"{seconds}.{rest // 1000:06d}"


class Record(NamedTuple):
    """One event of a process, for a program that reads the trace.

    Attributes:
        time_ns: CLOCK_MONOTONIC nanoseconds.
        pid, tid: of the process, and of its thread.
        process: its name.
        event: name of the event.
        fields: values that JSON has; others are text. Those that are None are left out.
    """

    time_ns: int
    pid: int
    tid: int
    process: str
    event: str
    fields: dict[str, Any]


_Kept = tuple[int, int, TraceEvent, dict[str, object]]


@dataclass(slots=True)
class _Output:
    fd: int = _STDERR
    process: str = "-"
    failure: OSError | None = None
    records: list[_Kept] | None = None
    #: There may be records.
    kept: threading.Event = field(default_factory=threading.Event)
    #: Writes the records when there is a pause; started with the first one.
    writer: threading.Thread | None = None
    #: One thread writes at a time. The end of the process waits for it, and so does `enable`, after
    #: which the descriptor may be closed. A signal handler may emit an event meanwhile.
    writing: threading.RLock = field(default_factory=threading.RLock)


#: All events of the modules that were imported, by name.
EVENTS: dict[str, TraceEvent] = {}
_output = _Output()
_patterns: list[str] = []


def event(name: str, *fields: str, help: str) -> TraceEvent:  # noqa: A002  as argparse calls it
    """Define an event.

    Raises:
        UsageError: there is one of that name.
    """
    if name in EVENTS:
        raise UsageError(f"the trace event {name} is defined twice")
    made = EVENTS[name] = TraceEvent(name, fields, help, _is_named(name))
    return made


def enable(patterns: str, *, fd: int = _STDERR, process: str = "-") -> None:
    """Switch events on.

    Args:
        patterns: separated by commas, such as ``vhost_user_*,migration_set_state``; ``*`` is all.
            A pattern that matches no event so far holds for events that are defined later.
        fd: descriptor for the lines; it stays the caller's.
        process: name of this process in each line.
    """
    _patterns[:] = [pattern.strip() for pattern in patterns.split(",") if pattern.strip()]
    with _output.writing:
        _output.fd, _output.process, _output.failure, _output.records = fd, process, None, None
        _output.kept.set()  # the thread that wrote records ends
        _output.kept, _output.writer = threading.Event(), None
    for made in EVENTS.values():
        made.enabled = _is_named(made.name)


def enable_records(patterns: str, *, fd: int, process: str) -> None:
    """Switch events on, as `enable` does, and write them as records, for `read_records`.

    Args:
        patterns: as of `enable`.
        fd: of a socket (SOCK_SEQPACKET); processes that are started inherit it. A packet has whole
            lines.
        process: name of this process.
    """
    enable(patterns, fd=fd, process=process)
    _output.records = []
    atexit.unregister(end_records)
    atexit.register(end_records)


def is_recording() -> bool:
    """Whether events are kept as records."""
    return _output.records is not None


def disable() -> None:
    """Switch all events off, and forget the records."""
    enable("")


def write_records() -> None:
    """Write the records that are kept. Nothing is done where none are."""
    with _output.writing:
        records = _output.records
        if records is not None:
            taken = records[:]
            del records[: len(taken)]  # other threads append meanwhile
            _write(taken)


def end_records() -> None:
    """Write the records that are kept, for the last time, and `LOST` if some could not be."""
    with _output.writing:
        write_records()
        if _output.records is not None and _output.failure:
            with suppress(OSError):  # the reader has gone, or still hangs
                os.write(_output.fd, LOST)


def _write(taken: list[_Kept]) -> None:
    pid = os.getpid()
    lines: list[str] = []
    size = 0
    for time_ns, tid, made, values in taken:
        fields = {name: values[name] for name in made.fields if values[name] is not None}
        record = (time_ns, pid, tid, _output.process, made.name, fields)
        line = json.dumps(record, default=str)
        lines.append(line)
        size += len(line) + 1
        if size > _CHUNK:
            _write_lines(lines)
            lines, size = [], 0
    _write_lines(lines)


def _announce(records: list[_Kept]) -> None:
    """Wake the thread that writes records; the first time it is started."""
    _output.kept.set()
    if _output.writer is not None:
        return
    with _output.writing:
        if _output.writer is None and _output.records is records:
            _output.writer = threading.Thread(
                target=_write_in_pauses,
                args=(records, _output.kept),
                name="write records",
                daemon=True,
            )
            _output.writer.start()


def _write_in_pauses(records: list[_Kept], kept: threading.Event) -> None:
    while _output.records is records:
        kept.wait()
        kept.clear()
        while _output.records is records and (ends := (*records[:1], *records[-1:])):
            now = time.monotonic_ns()
            if now - ends[-1][0] >= PAUSE_NS or now - ends[0][0] >= LONGEST_NS:
                write_records()
            else:
                time.sleep(PAUSE_NS / 1e9)  # the next record may come at any time


def _forget_records() -> None:
    """In a child: the records so far are the parent's, and so is who holds a lock."""
    _output.writing, _output.kept, _output.writer = threading.RLock(), threading.Event(), None
    if _output.records is not None:
        _output.records = []


def _write_lines(lines: list[str]) -> None:
    """Whole lines in one packet: those of several processes do not mix."""
    if not lines or _output.failure:  # a reader that has gone or hangs stays so
        return
    try:
        os.write(_output.fd, "".join(f"{line}\n" for line in lines).encode())
    except OSError as error:
        _output.failure = _output.failure or error


def read_records(lines: Iterable[str]) -> Iterator[Record]:
    """The records of these lines; what is not one is left out."""
    for line in lines:
        try:
            yield Record(*json.loads(line))
        except (ValueError, TypeError):
            continue


def configure_from_environment(process: str) -> None:
    """`enable` the events that the environment variable names, if it is set.

    Args:
        process: name of this process, unless the environment has one.
    """
    patterns = os.environ.get(PATTERNS_VARIABLE, "")
    if patterns:
        text = os.environ.get(FD_VARIABLE, "")
        fd = int(text) if text.isdigit() else _STDERR
        name = os.environ.get(PROCESS_VARIABLE, process)
        if RECORDS_VARIABLE in os.environ:
            enable_records(patterns, fd=fd, process=name)
        else:
            enable(patterns, fd=fd, process=name)


def environment(process: str) -> Mapping[str, str]:
    """Variables for a process that this one starts; empty when nothing is traced.

    Args:
        process: name of that process in its lines.
    """
    if not _patterns:
        return {}
    return {
        PATTERNS_VARIABLE: ",".join(_patterns),
        FD_VARIABLE: str(_output.fd),
        PROCESS_VARIABLE: process,
        **({} if _output.records is None else {RECORDS_VARIABLE: "1"}),
    }


def inherited_fds() -> tuple[int, ...]:
    """Descriptors that a process with `environment` has to inherit."""
    return (_output.fd,) if _patterns else ()


def failure() -> OSError | None:
    """Why the first line that this process could not write is missing, or None."""
    return _output.failure


def unmatched() -> list[str]:
    """The patterns that match no event of the modules that were imported."""
    return [
        pattern for pattern in _patterns if not any(fnmatchcase(name, pattern) for name in EVENTS)
    ]


def _text(value: object) -> str:
    """A field's value without white space, or in quotes."""
    text = str(value)
    return json.dumps(text) if not text or any(c.isspace() for c in text) else text


def _is_named(name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in _patterns)


os.register_at_fork(after_in_child=_forget_records)
