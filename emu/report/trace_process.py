"""The process that writes the file of ``--trace`` while the processes of a command run.

It reads their records from a socket, which is its standard input (`tracing.enable_records`), puts
them into the order of time, and writes their events as they come. It ends when the command says so,
or when all writers have ended, as when the command is killed. So its memory is bounded, the command
and its VMs do not wait for the file, and what was recorded is there whatever ends the command.
"""

from __future__ import annotations

import heapq
import json
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from emu.errors import EmuError
from emu.report import trace_format
from emu.report.chrome_trace import ChromeTrace
from emu.report.log_file import LogFile
from vhost_user import tracing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

#: Nanoseconds after which a record is passed on: those before it have come, unless their process
#: waited long for a CPU.
DELAY_NS = tracing.LONGEST_NS + 8 * tracing.PAUSE_NS
#: Records that wait for earlier ones at most.
MAX_WAITING = 100_000
#: Bytes of one packet at most.
_PACKET = 1 << 20
_INTERVAL = 1.0
_STDIN = 0
#: The packet after the last record.
END = b"end"


class Order:
    """Passes records on in the order of time.

    Args:
        take: gets each record.
    """

    def __init__(self, take: Callable[[tracing.Record], None]) -> None:
        self._take = take
        self._lines: list[tuple[int, int, str]] = []
        self._count = 0

    def put(self, packet: bytes) -> None:
        """Take lines; what is not a record is left out."""
        for line in packet.decode(errors="replace").splitlines():
            start, _, _ = line[1:].partition(",")
            if start.isdecimal():
                self._count += 1
                heapq.heappush(self._lines, (int(start), self._count, line))

    def pass_on(self, until: int | None = None) -> None:
        """Pass on what was recorded before ``until``, by default all, and what is too much."""
        lines = self._lines
        while lines and (until is None or lines[0][0] < until or len(lines) > MAX_WAITING):
            for record in tracing.read_records([heapq.heappop(lines)[2]]):
                with suppress(KeyError, ValueError, TypeError):  # of a process that is not ours
                    self._take(record)


class TraceFile:
    """The file; it is opened with the first record: a command that does nothing leaves the old one.

    Args:
        path: where it is written.
        command: the name of the command.
    """

    def __init__(self, path: Path, command: str) -> None:
        self._path = path
        self._command = command
        self._trace = ChromeTrace()
        self._log: LogFile | None = None
        self._failure = ""
        self._lost = False

    def take(self, record: tracing.Record) -> None:
        """Write the events of a record."""
        self.open()
        if self._log is not None:
            for event in self._trace.events_of(record):
                self._log.put_line(trace_format.line(event))

    def close(self) -> str:
        """Write the end, if there is a beginning; returns a line on what is missing."""
        if self._log is not None:
            self._log.put_line(trace_format.end(self._command))
            self._failure = self._log.close()
            self._log = None
        if self._lost and not self._failure:
            return f"{self._path}: records are missing: they came faster than they were written"
        return self._failure

    def note_loss(self) -> None:
        """A process could not pass on all its records; `close` reports it."""
        self._lost = True

    def open(self) -> None:
        """Write the beginning, if that has not been done."""
        if self._log is None and not self._failure:
            try:
                self._log = LogFile.open(self._path)
            except EmuError as error:
                self._failure = str(error)
            else:
                self._log.put_line(trace_format.BEGIN)


def collect(sock: socket.socket, path: Path, command: str) -> None:
    """Write the trace until `END`, or until all writers have ended.

    The answer to `END` is a JSON string: a line on what is missing, or nothing.
    """
    file = TraceFile(path, command)
    order = Order(file.take)
    sock.settimeout(_INTERVAL)
    while True:
        try:
            packet = sock.recv(_PACKET)
        except TimeoutError:
            packet = b"\n"
        except OSError:
            packet = b""
        if packet in (b"", END):
            break
        if packet == tracing.LOST:
            file.note_loss()
        order.put(packet)
        order.pass_on(time.monotonic_ns() - DELAY_NS)
    order.pass_on()
    if packet == END and not path.exists():
        file.open()
    missing = file.close()
    with suppress(OSError):
        sock.send(json.dumps(missing).encode())


def main(arguments: Sequence[str]) -> None:
    """Write the trace; arguments are the file and the name of the command."""
    path, command = arguments
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the command ends this process
    collect(socket.socket(fileno=_STDIN), Path(path), command)


if __name__ == "__main__":
    main(sys.argv[1:])
