"""The progress of a run on stderr."""

from __future__ import annotations

import io
import time
from typing import TYPE_CHECKING

from rich.console import Console

from emu.report import progress

if TYPE_CHECKING:
    import pytest


def show_run(show: progress.Progress) -> None:
    """Show the steps of a short run."""
    with show:
        show.step("boot")
        show.detail("round 1")
        show.done("downtime 1 ms")


def test_a_pipe_receives_a_line_for_each_call() -> None:
    """At once."""
    out = io.StringIO()
    show_run(progress.make(quiet=False, stream=out))
    assert out.getvalue() == "boot\n  round 1\ndowntime 1 ms\n"


def test_frequent_calls_print_a_line_for_each_quarter() -> None:
    """In each step."""
    out = io.StringIO()
    with progress.make(quiet=False, stream=out) as show:
        for name in ("a", "b"):
            show.step(name)
            for done in (0, 10, 26, 27, 49, 80, 80, 99):
                show.advance(f"{done} of 100", done, 100)
    lines = ["  26 of 100", "  80 of 100"]
    assert out.getvalue().splitlines() == ["a", *lines, "b", *lines]


def test_a_long_step_prints_a_line_at_an_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter of a large file takes long."""
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    out = io.StringIO()
    with progress.make(quiet=False, stream=out) as show:
        show.step("read")
        for second in range(61):
            clock[0] = float(second)
            show.advance(f"{second} of 4096", second, 4096)
    assert len(out.getvalue().splitlines()) == 1 + 6


def test_a_terminal_that_cannot_move_its_cursor_shows_lines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """TERM=dumb, as in an editor's shell."""
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("FORCE_COLOR", "1")
    out = io.StringIO()
    show_run(progress.make(quiet=False, stream=out))
    assert out.getvalue() == "boot\n  round 1\ndowntime 1 ms\n"


def test_quiet_prints_no_progress() -> None:
    """On a terminal or elsewhere."""
    out = io.StringIO()
    show_run(progress.make(quiet=True, stream=out))
    assert out.getvalue() == ""


def test_only_results_stay_on_a_terminal() -> None:
    """The line that changes is removed at the end, and the cursor is visible."""
    out = io.StringIO()
    show_run(progress.TerminalProgress(Console(file=out, force_terminal=True, width=80)))
    text = out.getvalue()
    assert "downtime 1 ms" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
