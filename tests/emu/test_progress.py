"""What a run says while it works."""

from __future__ import annotations

import io

from rich.console import Console

from emu import progress


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
