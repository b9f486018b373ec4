"""A terminal that wraps its lines anew when its width changes, as most emulators do, or cuts them.

It knows what `rich` writes, and scrolls for ever.
"""

from __future__ import annotations

import re

_CODE = re.compile(r"\x1b\[([?0-9;]*)([A-Za-z])|[^\x1b]|\x1b.?", re.DOTALL)


class Terminal:
    """Its contents, and its cursor.

    Args:
        width: columns.
        wraps: a narrower one wraps its lines; otherwise it cuts them.
    """

    def __init__(self, width: int, *, wraps: bool = True) -> None:
        self.width = width
        self._wraps = wraps
        # Each line as it was written, however many rows of the screen it takes.
        self._lines = [""]
        self._line = self._column = 0
        # The last character was written in the last column: the next one begins the next row.
        self._is_at_border = False
        self._auto_wrap = True
        self.cursor_is_shown = True

    @property
    def text(self) -> list[str]:
        """The lines that are not empty."""
        return [line.rstrip() for line in self._lines if line.strip()]

    @property
    def rows(self) -> int:
        """How many rows of the screen they take."""
        return sum(self._rows_of(line) for line in self._lines)

    def resize(self, width: int) -> None:
        """The user drags its border; the cursor stays at its character."""
        self.width = width
        if not self._wraps:
            self._lines = [line[:width] for line in self._lines]
            self._column = min(self._column, width - 1)

    def write(self, text: str) -> None:
        """Characters and codes."""
        for match in _CODE.finditer(text):
            if match[2] is not None:
                self._obey(match[1], match[2])
            elif match[0] in "\r\n":
                self._is_at_border = False
                self._column -= self._column % self.width
                if match[0] == "\n":
                    self._line_feed()
            else:
                self._put(match[0])

    def _obey(self, arguments: str, code: str) -> None:
        number = int(arguments) if arguments.isdigit() else 1
        if code in "AJK":
            self._is_at_border = False
        if code == "A":
            for _ in range(number):
                self._up()
        elif code == "J":
            assert not arguments, "only what follows the cursor"
            del self._lines[self._line + 1 :]
            self._lines[self._line] = self._lines[self._line][: self._column]
        elif code == "K":
            begin = self._column - self._column % self.width
            row = " " * len(self._lines[self._line][begin : begin + self.width])
            self._replace(begin, row)
        elif arguments == "?7":
            self._auto_wrap = code == "h"
        elif arguments == "?25":
            self.cursor_is_shown = code == "h"
        else:
            assert code == "m", f"unknown: {arguments}{code}"

    def _up(self) -> None:
        if self._column >= self.width:
            self._column -= self.width
        elif self._line:
            self._line -= 1
            last = (self._rows_of(self._lines[self._line]) - 1) * self.width
            self._column += last

    def _line_feed(self) -> None:
        """From the beginning of a row: the kernel adds a carriage return."""
        following = self._column + self.width
        if following < len(self._lines[self._line]):
            self._column = following
            return
        self._line += 1
        self._column = 0
        if self._line == len(self._lines):
            self._lines.append("")

    def _put(self, character: str) -> None:
        if self._is_at_border and self._auto_wrap:
            self._column += 1
        self._replace(self._column, character)
        self._is_at_border = (self._column + 1) % self.width == 0
        if not self._is_at_border:
            self._column += 1

    def _replace(self, at: int, text: str) -> None:
        line = self._lines[self._line].ljust(at)
        self._lines[self._line] = line[:at] + text + line[at + len(text) :]

    def _rows_of(self, line: str) -> int:
        return max(1, -(-len(line) // self.width))
