"""Lines that change in place, on a terminal whose width changes."""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING

import pytest
from rich.console import Console
from rich.table import Table

from tests.reflow import Terminal
from vhost_user.live_region import LiveRegion

if TYPE_CHECKING:
    from collections.abc import Sequence

HEIGHT = 12


class Screen(io.StringIO):
    """A stream into a terminal, and the console that writes to it."""

    def __init__(self, *, wraps: bool = True) -> None:
        super().__init__()
        self.terminal = Terminal(100, wraps=wraps)
        self.console = Console(file=self, force_terminal=True, width=100, height=HEIGHT)

    def write(self, text: str) -> int:
        """To the terminal."""
        self.terminal.write(text)
        return len(text)

    def resize(self, width: int) -> None:
        """The program learns of it when it draws the next time."""
        self.terminal.resize(width)
        self.console.width = width


def table(number: int, rows: int = 4) -> Table:
    """As wide as the terminal."""
    made = Table(expand=True)
    for name in ("device", "rate", "state"):
        made.add_column(name)
    for row in range(rows):
        made.add_row(f"disk{row}", str(1000 * number + row), "running")
    return made


def drawn(screen: Screen, number: int) -> list[str]:
    """What the table looks like alone."""
    out = io.StringIO()
    Console(file=out, width=screen.console.width).print(table(number))
    return [line.rstrip() for line in out.getvalue().splitlines()]


@pytest.mark.parametrize("wraps", [True, False])
@pytest.mark.parametrize("widths", [(60,), (99, 60, 45), (45, 120), (60, 45, 44, 43, 42)], ids=str)
def test_nothing_remains_when_the_width_changes(widths: Sequence[int], wraps: bool) -> None:
    """What was printed above stays, and is whole where the terminal does not cut it."""
    screen = Screen(wraps=wraps)
    above = ["above", "the table"]
    for line in above:
        screen.console.print(line)
    with LiveRegion(screen.console) as region:
        region.show(table(0))
        for number, width in enumerate(widths):
            screen.resize(width)
            region.show(table(number))
            region.show(table(number))
            assert screen.terminal.text == [*above, *drawn(screen, number)]
            assert screen.terminal.rows == len(screen.terminal.text)
    screen.console.print("below")
    assert screen.terminal.text == [*above, "below"]
    assert screen.terminal.cursor_is_shown


def test_lines_above_come_while_it_is_there() -> None:
    """Those of the console, and those of other streams; also after the width has changed."""
    screen = Screen()
    with LiveRegion(screen.console) as region:
        region.show(table(1))
        screen.resize(50)
        screen.console.print("one")
        sys.stdout.write("two\n")
        sys.stderr.write("three\n")
        sys.stdout.write("the beginning of a line")
        assert not screen.terminal.cursor_is_shown
        assert screen.terminal.text == ["one", "two", "three", *drawn(screen, 1)]
    assert screen.terminal.text == ["one", "two", "three", "the beginning of a line"]


def test_the_last_state_may_stay() -> None:
    """Whole, although the terminal is lower than the table; the next line comes below."""
    screen = Screen()
    with LiveRegion(screen.console, keeps_last=True) as region:
        region.show(table(1, rows=3 * HEIGHT))
        assert len(screen.terminal.text) == HEIGHT
        region.show(table(2, rows=3 * HEIGHT))
        assert len(screen.terminal.text) == HEIGHT
    screen.console.print("below")
    assert screen.terminal.text[-1] == "below"
    assert len([line for line in screen.terminal.text if "disk" in line]) == 3 * HEIGHT


def test_a_line_is_cut_if_the_terminal_is_narrower_than_the_program_knows() -> None:
    """It is in one row all the same, and the next drawing erases it."""
    screen = Screen()
    with LiveRegion(screen.console) as region:
        screen.terminal.resize(40)
        region.show(table(1))
        assert screen.terminal.rows == len(screen.terminal.text)
        screen.resize(40)
        region.show(table(2))
        assert screen.terminal.text == drawn(screen, 2)


def test_it_takes_the_place_of_another_one() -> None:
    """As the table of a run does with the line of its progress, on the same terminal."""
    screen = Screen()
    other = Console(file=screen, force_terminal=True, width=100, height=HEIGHT)
    first, second = LiveRegion(screen.console), LiveRegion(other)
    first.show("the progress")
    second.show(table(1))
    assert screen.terminal.text == drawn(screen, 1)
    second.close()
    first.show("more progress")
    assert screen.terminal.text == ["more progress"]
    first.close()
    assert screen.terminal.text == []


def test_one_that_showed_nothing_writes_nothing() -> None:
    """It may be closed twice."""
    screen = Screen()
    with LiveRegion(screen.console) as region:
        pass
    region.close()
    assert screen.terminal.text == []
    assert screen.terminal.cursor_is_shown
