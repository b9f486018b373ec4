"""The progress of a run, on stderr."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Protocol, Self

from rich.text import Text

from vhost_user.console import console_for
from vhost_user.live_region import LiveRegion

if TYPE_CHECKING:
    from typing import TextIO

    from rich.console import Console


#: Seconds between two lines of a long step, if the output is not a terminal.
_LINE_SECONDS = 10.0


class Progress(Protocol):
    """Shows the steps of a run; a context manager."""

    def __enter__(self) -> Self:
        """Start the display."""

    def __exit__(self, *exception: object) -> None:
        """End the display, and restore the terminal."""

    def step(self, text: str) -> None:
        """Show the next step."""

    def detail(self, text: str) -> None:
        """Show a detail of the current step."""

    def advance(self, text: str, done: int, whole: int) -> None:
        """Show that ``done`` of ``whole`` is completed; for frequent calls."""

    def done(self, text: str) -> None:
        """Show a result, permanently."""


class SilentProgress:
    """Prints nothing: `--quiet`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def step(self, text: str) -> None:
        """Nothing."""

    def detail(self, text: str) -> None:
        """Nothing."""

    def advance(self, text: str, done: int, whole: int) -> None:
        """Nothing."""

    def done(self, text: str) -> None:
        """Nothing."""


class LineProgress(SilentProgress):
    """Plain lines, for a log or a pipe."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._quarters = 0
        self._due = 0.0

    def step(self, text: str) -> None:
        """A line."""
        self._quarters = 0
        self._due = time.monotonic() + _LINE_SECONDS
        self._line(text)

    def detail(self, text: str) -> None:
        """A line, indented."""
        self._line(f"  {text}")

    def advance(self, text: str, done: int, whole: int) -> None:
        """Print a line for each quarter of the whole, and each `_LINE_SECONDS` of a long step."""
        quarters, now = 4 * done // whole, time.monotonic()
        if quarters > self._quarters or now >= self._due:
            self._quarters = quarters
            self._due = now + _LINE_SECONDS
            self.detail(text)

    def done(self, text: str) -> None:
        """A line."""
        self._line(text)

    def _line(self, text: str) -> None:
        try:
            self._stream.write(text + "\n")
            self._stream.flush()
        except OSError:
            return  # the reader has closed the pipe: the run continues


class TerminalProgress:
    """One line that changes, and results above it.

    The line is drawn by each call and at no other time: a thread that redraws it would take CPU
    time from what is measured.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = LiveRegion(console)
        self._step = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._live.close()

    def step(self, text: str) -> None:
        """Replace the line."""
        self._step = text
        self._draw(text)

    def detail(self, text: str) -> None:
        """The line becomes the step and this."""
        self._draw(f"{self._step}: {text}")

    def advance(self, text: str, done: int, whole: int) -> None:  # noqa: ARG002
        """The line becomes the step and this."""
        self.detail(text)

    def done(self, text: str) -> None:
        """Print a line above the one that changes."""
        self._console.print(Text(text))
        self._draw(self._step)

    def _draw(self, text: str) -> None:
        self._live.show(Text(text, style="cyan", no_wrap=True, overflow="ellipsis"))


def make(*, quiet: bool, stream: TextIO | None = None) -> Progress:
    """The progress for stderr: a terminal, a file or pipe, or none."""
    target = sys.stderr if stream is None else stream
    if quiet or target is None:  # None if the program was started with stderr closed
        return SilentProgress()
    console = console_for(target)
    changes = console.is_terminal and not console.is_dumb_terminal
    return TerminalProgress(console) if changes else LineProgress(target)
