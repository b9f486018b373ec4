"""What a tap prints and writes while it forwards."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from emu.report.log_file import LogFile
from emu.tap import json_log, text_log
from emu.tap.device_table import DeviceCounts, DeviceView
from emu.tap.last_messages import LastMessages
from emu.tap.message import Message
from emu.tap.pcapng import PcapngWriter, section
from emu.tap.reader import Reader
from emu.tap.trace_log import TraceWriter
from emu.tap.traffic import Traffic
from emu.tap.transition_finder import TransitionFinder
from emu.tap.transition_table import object_of, render
from vhost_user.console import console_for

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from typing import Self, TextIO

    from emu.tap.last_messages import Cause
    from emu.tap.proxy import Pair
    from emu.tap.reader import Record
    from emu.tap.summary import Summary
    from emu.tap.transitions import Transition

#: Seconds between two drawings of the table.
INTERVAL = 1.0
#: Lines about violations that are printed at most.
MAX_FLAGGED = 1000
#: In `Logs`: what is written to stdout.
STDOUT = Path()
_STDOUT_FD = 1


class Logs(NamedTuple):
    """Where the logs go: None for nowhere, or `STDOUT`."""

    text: Path | None = None
    json: Path | None = None
    pcap: Path | None = None
    trace: Path | None = None


class Last(NamedTuple):
    """How many messages are held back, and for which causes they are written."""

    messages: int
    causes: Collection[Cause]


class Outputs:
    """The sinks of a tap, as a context manager.

    Args:
        logs: which files to write.
        pairs: what is tapped.
        view: the terminal for the table of devices, or None.
        report: the stream for stops and starts where there is no such terminal, or None.
        notice: prints a line for the user.
        last: write the last messages only, and only for a cause.
        summary: counts everything for a report.

    Attributes:
        reader: the observer for the proxy.
        traffic: counts everything.
        failures: of the logs that could not be written to the end, once they are closed: why.

    Raises:
        EmuError: a file cannot be written.
    """

    def __init__(
        self,
        logs: Logs,
        pairs: Sequence[Pair],
        view: TextIO | None,
        report: TextIO | None,
        notice: Callable[[str], None],
        last: Last | None = None,
        summary: Summary | None = None,
    ) -> None:
        self.traffic = Traffic()
        self.failures: list[str] = []
        self._notice = notice
        self._summary = summary
        self._json: LogFile | None = None
        self._trace = TraceWriter()
        self._trace_file: LogFile | None = None
        self._finder = TransitionFinder(self._found)
        self._flagged: set[str] = set()
        self._files: list[LogFile] = []
        self._incomplete: set[LogFile] = set()
        self._counts = DeviceCounts(pair.name for pair in pairs)
        sinks: list[Callable[[Record], None]] = [
            self.traffic.take,
            self._counts.take,
            self._finder.take,
            self._flag,
        ]
        if summary is not None:
            sinks.append(summary.take)
        writers: list[Callable[[Record], None]] = []
        try:
            if logs.text is not None:
                writers.append(self._lines("--text", logs.text, text_log.line_of))
            if logs.json is not None:
                writers.append(self._lines("--json", logs.json, json_log.line_of))
                self._json = self._files[-1]
                self._put_line(self._json, json_log.head(pairs))
            if logs.pcap is not None:
                writers.append(self._blocks("--pcap", logs.pcap))
            if logs.trace is not None:
                self._trace_file = self._open("--trace", logs.trace)
                self._put_line(self._trace_file, self._trace.begin())
                writers.append(self._write_trace)
        except BaseException:
            self.close()
            raise
        self._last = None if last is None else LastMessages(writers, last.messages, last.causes)
        sinks += writers if self._last is None else [self._last.take]
        self.reader = Reader(sinks)
        stream = view or report
        self._console = None if stream is None else console_for(stream)
        self._view = DeviceView(self._console) if view and self._console else None
        self._shown = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._finder.finish()
        if self._last is not None:
            self._last.finish()
        if self._view is not None:
            self._view.close()
        self.close()

    @property
    def next_look(self) -> float | None:
        """When `look` has something to do, on the clock of `time.monotonic`; None for never."""
        looks = [] if self._view is None else [self._shown + INTERVAL]
        if self._finder.due is not None:
            looks.append(self._finder.due / 1e9)
        return min(looks, default=None)

    def look(self, until: int | None = None) -> None:
        """Report stops and starts that are over, and draw the table again, if it is time.

        Args:
            until: all messages before have been read, CLOCK_MONOTONIC nanoseconds; by default now.
        """
        self._finder.finish_quiet(time.monotonic_ns() if until is None else until)
        now = time.monotonic()
        if self._view is not None and now >= self._shown + INTERVAL:
            self._view.show(self._counts.rows(self.reader, now - self._shown))
            self._shown = now

    def _found(self, transition: Transition) -> None:
        if self._summary is not None:
            self._summary.add(transition)
        if self._json is not None:
            self._put_line(self._json, json_log.line(object_of(transition)))
        if self._trace_file is not None:
            for line in self._trace.lines_of_transition(transition):
                self._put_line(self._trace_file, line)
        if self._console is not None:
            self._console.print(render(transition, plain=not self._console.is_terminal))

    def close(self) -> None:
        """Write the rest of the logs."""
        if self._trace_file is not None:
            self._put_line(self._trace_file, self._trace.end())
            self._trace_file = None
        for file in self._files:
            complaint = file.close()
            if file.failure is not None:
                self.failures.append(complaint)
            elif complaint:
                self._notice(complaint)
        self._files.clear()

    def _flag(self, record: Record) -> None:
        """Print the first violation of each rule by each device; the logs have all of them."""
        if isinstance(record, Message):
            for violation in record.violations:
                key = f"{record.device}: {violation.partition(':')[0]}"
                if key not in self._flagged and len(self._flagged) < MAX_FLAGGED:
                    self._flagged.add(key)
                    self._notice(f"{record.device}: {violation}")

    def _write_trace(self, record: Record) -> None:
        if self._trace_file is not None:
            for line in self._trace.lines_of(record):
                self._put_line(self._trace_file, line)

    def _lines(
        self, option: str, path: Path, line_of: Callable[[Record], str]
    ) -> Callable[[Record], None]:
        """A sink that writes lines."""
        file = self._open(option, path)
        return lambda record: self._put_line(file, line_of(record))

    def _blocks(self, option: str, path: Path) -> Callable[[Record], None]:
        """A sink that writes pcapng."""
        file, writer = self._open(option, path), PcapngWriter()
        file.put(section())

        def write(record: Record) -> None:
            blocks = writer.blocks_of(record)
            if blocks and not self._check(file, written=file.put(blocks)):
                writer.forget()

        return write

    def _put_line(self, file: LogFile, line: str) -> None:
        self._check(file, written=file.put_line(line))

    def _check(self, file: LogFile, *, written: bool) -> bool:
        """Report at once the first entry that a log lacks; returns ``written``."""
        if not written and file not in self._incomplete:
            self._incomplete.add(file)
            self._notice(file.complaint)
        return written

    def _open(self, option: str, path: Path) -> LogFile:
        if path == STDOUT:
            file = LogFile("stdout", os.dup(_STDOUT_FD))
        else:
            file = LogFile.open(path)
            file.name = f"{option} {path}"
        self._files.append(file)
        return file
