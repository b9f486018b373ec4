"""Lines on a terminal that change: drawn again in place, and removed at the end.

Between two drawings the cursor is at the beginning of the first line. So the next one erases all
that follows the cursor, whatever has become of it: a terminal that is narrower now may have wrapped
each line into two, and another one may have cut it. `rich.live` leaves the cursor at the end, and
moves it up by as many lines as it has drawn, which is too few then.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING, TextIO, cast

from rich.console import RenderHook
from rich.control import Control
from rich.file_proxy import FileProxy
from rich.segment import ControlType, Segment

if TYPE_CHECKING:
    from typing import Self

    from rich.console import (
        Console,
        ConsoleOptions,
        ConsoleRenderable,
        RenderableType,
        RenderResult,
    )

#: Only that they are codes counts; rich writes the text.
_CODES = [(ControlType.CARRIAGE_RETURN,)]
_ERASE = Segment("\r\x1b[J", None, _CODES)
#: A line that is too long, since the terminal has just become narrower, is cut, and not wrapped.
_CUT = Segment("\x1b[?7l", None, _CODES)
_WRAP = Segment("\x1b[?7h", None, _CODES)


class LiveRegion(RenderHook):
    """The lines at the end of a terminal; a context manager.

    What is printed meanwhile, also to `sys.stdout` and `sys.stderr`, comes above them.

    Args:
        console: of the terminal, which can move its cursor.
        keeps_last: the lines stay at the end.
    """

    def __init__(self, console: Console, *, keeps_last: bool = False) -> None:
        self._console = console
        self._keeps_last = keeps_last
        self._shown: RenderableType = ""
        self._redirected = ExitStack()
        self._is_open = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def show(self, lines: RenderableType) -> None:
        """Draw these lines in place of those before."""
        self._shown = lines
        if not self._is_open:
            self._is_open = True
            self._console.show_cursor(show=False)
            self._console.push_render_hook(self)
            self._redirect()
        self._console.print(Control())

    def close(self) -> None:
        """Remove the lines, or leave them, and the cursor below."""
        if not self._is_open:
            return
        self._is_open = False
        self._redirected.close()  # which may print the beginning of a line
        self._console.pop_render_hook()
        with self._console:
            self._console.print(_Erasure())
            if self._keeps_last:
                self._console.print(self._shown)
            self._console.show_cursor()

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """What is printed above the lines, between their old state and their new one."""
        return [_Erasure(), *renderables, _Drawing(self._shown)]

    def _redirect(self) -> None:
        for redirect, stream in ((redirect_stdout, sys.stdout), (redirect_stderr, sys.stderr)):
            if not isinstance(stream, FileProxy):
                proxy = cast("TextIO", FileProxy(self._console, stream))
                self._redirected.enter_context(redirect(proxy))
                self._redirected.callback(proxy.flush)


class _Erasure:
    """What follows the cursor is erased."""

    def __rich_console__(self, _console: Console, _options: ConsoleOptions) -> RenderResult:
        yield _ERASE


class _Drawing:
    """The lines, as far as the terminal is high; the cursor is at their beginning afterwards."""

    def __init__(self, lines: RenderableType) -> None:
        self._lines = lines

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = console.render_lines(self._lines, options, pad=False)[: console.size.height]
        yield _CUT
        for number, line in enumerate(lines):
            if number:
                yield Segment.line()
            yield from line
        up = f"\x1b[{len(lines) - 1}A" if len(lines) > 1 else ""
        yield Segment(f"\r{up}", None, _CODES)
        yield _WRAP
