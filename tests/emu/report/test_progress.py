"""What a run says while it works."""

from __future__ import annotations

import io

from rich.console import Console

from emu.report import progress


def tell(show: progress.Progress) -> None:
    """A short run."""
    with show:
        show.step("boot")
        show.detail("round 1")
        show.done("downtime 1 ms")


def test_a_pipe_gets_lines() -> None:
    """One for each thing that happens, at once."""
    out = io.StringIO()
    tell(progress.make(quiet=False, stream=out))
    assert out.getvalue() == "boot\n  round 1\ndowntime 1 ms\n"


def test_a_log_is_not_flooded() -> None:
    """A line for each quarter, and again from the first one in the next step."""
    out = io.StringIO()
    with progress.make(quiet=False, stream=out) as show:
        for name in ("a", "b"):
            show.step(name)
            for done in (0, 10, 26, 27, 49, 80, 80, 99):
                show.advance(f"{done} of 100", done, 100)
    lines = ["  26 of 100", "  80 of 100"]
    assert out.getvalue().splitlines() == ["a", *lines, "b", *lines]


def test_quiet_is_quiet() -> None:
    """On a terminal or elsewhere."""
    out = io.StringIO()
    tell(progress.make(quiet=True, stream=out))
    assert out.getvalue() == ""


def test_a_terminal_keeps_results_only() -> None:
    """The line that changes is gone in the end, and the cursor is back."""
    out = io.StringIO()
    tell(progress.TerminalProgress(Console(file=out, force_terminal=True, width=80)))
    text = out.getvalue()
    assert "downtime 1 ms" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
