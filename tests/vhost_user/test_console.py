"""Colours and widths of the commands' output."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import io
import os

import pytest
from rich.table import Table
from rich.text import Text

from vhost_user.console import UNLIMITED, choose_colors, console_for

RED = "\x1b[31m"


class Terminal(io.StringIO):
    """A terminal of 80 columns."""

    def isatty(self) -> bool:
        """It is one."""
        return True


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.setenv(name, "")  # so that it is removed at the end
        monkeypatch.delenv(name)


def printed(stream: io.StringIO) -> str:
    console_for(stream).print(Text("x" * 100, "red"), soft_wrap=True)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("wanted", "no_color", "force_color", "in_a_pipe", "on_a_terminal"),
    [
        (None, None, None, False, True),
        (None, "1", None, False, False),
        (None, "", None, False, True),
        (None, None, "1", True, True),
        (None, None, "", False, True),
        (None, "1", "1", False, False),
        (True, "1", None, True, True),
        (False, None, "1", False, False),
    ],
)
def test_an_option_comes_before_the_environment(
    wanted: bool | None,
    no_color: str | None,
    force_color: str | None,
    in_a_pipe: bool,
    on_a_terminal: bool,
) -> None:
    for name, value in (("NO_COLOR", no_color), ("FORCE_COLOR", force_color)):
        if value is not None:
            os.environ[name] = value
    if wanted is not None:
        choose_colors(wanted=wanted)
    assert (RED in printed(io.StringIO())) is in_a_pipe
    assert (RED in printed(Terminal())) is on_a_terminal


def test_a_pipe_is_no_terminal_also_with_colours() -> None:
    """Its lines are not wrapped, and nothing moves the cursor."""
    os.environ["FORCE_COLOR"] = "1"
    pipe, terminal = console_for(io.StringIO()), console_for(Terminal())
    assert (pipe.is_terminal, pipe.width) == (False, UNLIMITED)
    assert (terminal.is_terminal, terminal.width) == (True, 80)
    assert console_for(Terminal(), wide=True).width == UNLIMITED


def test_text_is_printed_as_it_is() -> None:
    """Brackets and colons of names are no markup, also in tables."""
    stream = io.StringIO()
    table = Table("[red]a", box=None)
    table.add_row("[vm]:cat:[/vm]")
    for shown in ("[bold]b[/bold]", table):
        console_for(stream).print(shown)
    lines = [line.strip() for line in stream.getvalue().splitlines()]
    assert lines == ["[bold]b[/bold]", "[red]a", "[vm]:cat:[/vm]"]
