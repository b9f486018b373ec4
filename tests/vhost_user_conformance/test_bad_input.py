"""Errors of `emu conform` for invalid input, for both roles."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.timeouts import PROGRAM_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Sequence

BOTH = [
    ((), 2, "--socket PATH or --exec COMMAND"),
    (("--exec", "true"), 2, "write {socket} where"),
    (("--socket", "x", "--patience", "nan"), 2, "nan is not a number"),
    (("--socket", "x", "--json", "/none/x"), 1, "--json /none/x: there is no directory"),
    (("--exec", "/no/such {socket}"), 1, "No such file"),
    (("--exec", "false {socket}"), 1, "the program ended with status 1"),
    (("--socket", "x", "--only", "nothing"), 2, "the areas are framing"),
    (("--exec", "'"), 2, "No closing quotation"),
]


@pytest.mark.parametrize(
    ("role", "arguments", "status", "text"),
    [
        *((role, *row) for role in ("back-end", "front-end") for row in BOTH),
        ("back-end", ("--socket", "/no/such"), 1, "no program listens"),
        (
            "front-end",
            ("--socket", "/no/such/s"),
            1,
            "/no/such/s: cannot listen there: No such file",
        ),
    ],
)
def test_an_error_is_one_line(role: str, arguments: Sequence[str], status: int, text: str) -> None:
    """The line states what is wrong."""
    argv = [sys.executable, "-m", "emu.cli", "conform", role, *arguments]
    done = subprocess.run(
        argv, capture_output=True, text=True, timeout=PROGRAM_TIMEOUT, check=False
    )
    assert (done.returncode, done.stdout) == (status, "")
    assert text in done.stderr
    assert len(done.stderr.splitlines()) == 1
