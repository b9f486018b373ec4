"""What a tap prints and writes while it forwards."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from emu.report.tables import console_for
from emu.tap import json_log, text_log
from emu.tap.device_table import DeviceCounts, DeviceView
from emu.tap.log_file import LogFile
from emu.tap.reader import Reader
from emu.tap.traffic import Traffic

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Self, TextIO

    from emu.tap.proxy import Pair
    from emu.tap.reader import Record

#: Seconds between two drawings of the table.
INTERVAL = 1.0
#: In `Logs`: what is written to stdout.
STDOUT = Path()
_STDOUT_FD = 1


class Logs(NamedTuple):
    """Where the logs go: None for nowhere, or `STDOUT`."""

    text: Path | None = None
    json: Path | None = None


class Outputs:
    """The sinks of a tap, as a context manager.

    Args:
        logs: which files to write.
        pairs: what is tapped.
        view: the terminal for the table of devices, or None.
        notice: prints a line for the user.

    Attributes:
        reader: the observer for the proxy.
        traffic: counts everything.

    Raises:
        EmuError: a file cannot be written.
    """

    def __init__(
        self,
        logs: Logs,
        pairs: Sequence[Pair],
        view: TextIO | None,
        notice: Callable[[str], None],
    ) -> None:
        self.traffic = Traffic()
        self._notice = notice
        self._files: list[LogFile] = []
        self._counts = DeviceCounts()
        sinks: list[Callable[[Record], None]] = [self.traffic.take, self._counts.take]
        try:
            if logs.text is not None:
                sinks.append(self._lines(logs.text, text_log.line_of))
            if logs.json is not None:
                sinks.append(self._lines(logs.json, json_log.line_of))
                self._files[-1].put_line(json_log.head(pairs))
        except BaseException:
            self.close()
            raise
        self.reader = Reader(sinks)
        self._view = None if view is None else DeviceView(console_for(view))
        self._shown = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        if self._view is not None:
            self._view.close()
        self.close()

    @property
    def next_look(self) -> float | None:
        """When `look` has something to do, on the clock of `time.monotonic`; None for never."""
        return None if self._view is None else self._shown + INTERVAL

    def look(self) -> None:
        """Draw the table again, if it is time."""
        due = self.next_look
        now = time.monotonic()
        if self._view is None or due is None or now < due:
            return
        self._view.show(self._counts.rows(self.reader, now - self._shown))
        self._shown = now

    def close(self) -> None:
        """Write the rest of the logs."""
        for file in self._files:
            if complaint := file.close():
                self._notice(complaint)
        self._files.clear()

    def _lines(self, path: Path, line_of: Callable[[Record], str]) -> Callable[[Record], None]:
        """A sink that writes lines."""
        file = LogFile.open(path) if path != STDOUT else LogFile("stdout", os.dup(_STDOUT_FD))
        self._files.append(file)
        return lambda record: file.put_line(line_of(record))
