"""All installed commands begin and end alike: their standard streams, and their exit status."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests import slow
from tests.timeouts import PROGRAM_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Sequence

PROJECT = tomllib.loads(Path(__file__).parents[2].joinpath("pyproject.toml").read_text())
SCRIPTS: dict[str, str] = PROJECT["project"]["scripts"]
EVERY_SCRIPT = pytest.mark.parametrize(
    "script", slow.all_but({"emu", "vhost-emu-blk", "vhost-emu-serve"}, SCRIPTS)
)
#: What a command is asked to print on stdout.
PRINTED = {
    "version": ("--version",),
    "help": ("--help",),
    "capabilities": ("--print-capabilities",),
    "events": ("--trace-events", "help"),
}
#: Where `emu` has something else, or has it in a subcommand.
PRINTED_BY_EMU = {
    "capabilities": ("doctor",),
    "events": ("migrate", "--trace-events", "help"),
}
PLUGIN = "from backends.virtio_device import VirtioDevice\nclass One(VirtioDevice):\n    pass\n"


def _words(script: str, *arguments: str) -> tuple[str, ...]:
    """The command; each is installed beside the interpreter."""
    return (str(Path(sys.executable).with_name(script)), *arguments)


def _printing(script: str, printed: str, folder: Path) -> tuple[str, ...]:
    """The command that prints this."""
    if script == "emu":
        return _words(script, *PRINTED_BY_EMU.get(printed, PRINTED[printed]))
    words = _words(script, *PRINTED[printed])
    if (script, printed) == ("vhost-emu-serve", "capabilities"):
        plugin = folder / "plugin.py"
        plugin.write_text(PLUGIN)
        words += ("--plugin", str(plugin))
    return words


def in_a_shell(words: Sequence[str], redirections: str) -> subprocess.CompletedProcess[str]:
    """Run a command with redirections of its streams."""
    return subprocess.run(
        ["sh", "-c", f"{shlex.join(words)} {redirections}"],
        capture_output=True,
        text=True,
        timeout=PROGRAM_TIMEOUT,
        check=False,
    )


#: How standard output may be, and the reason that is reported.
BROKEN = {
    ">&-": "standard output is closed: nothing can be printed",
    ">/dev/full": "standard output: No space left on device",
    "1</dev/null": "standard output: Bad file descriptor",
}


@EVERY_SCRIPT
@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("redirection", BROKEN)
def test_what_cannot_be_printed_is_one_line_and_a_failure(
    script: str, redirection: str, unbuffered: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line names standard output, and not only the reason."""
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    done = in_a_shell(_words(script, "--version"), redirection)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"{script}: {BROKEN[redirection]}\n"


@EVERY_SCRIPT
@pytest.mark.parametrize("printed", [name for name in PRINTED if name != "version"])
def test_that_holds_for_all_that_is_printed(script: str, printed: str, tmp_path: Path) -> None:
    """Each is printed by other code."""
    done = in_a_shell(_printing(script, printed, tmp_path), ">/dev/full")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"{script}: {BROKEN['>/dev/full']}\n"


@EVERY_SCRIPT
def test_a_reader_that_goes_is_no_error_message(script: str) -> None:
    """As with ``| head``; the status is that of a failure."""
    ours, theirs = os.pipe()
    os.close(ours)
    try:
        done = subprocess.run(
            _words(script, "--help"),
            stdout=theirs,
            stderr=subprocess.PIPE,
            timeout=PROGRAM_TIMEOUT,
            check=False,
        )
    finally:
        os.close(theirs)
    assert (done.returncode, done.stderr) == (1, b"")


@EVERY_SCRIPT
@pytest.mark.parametrize("redirections", ["2>&-", "2>/dev/full", "<&- 2>&-"])
def test_other_streams_change_nothing(script: str, redirections: str) -> None:
    """What is asked for is printed."""
    done = in_a_shell(_words(script, "--version"), redirections)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{script}, version ")


@EVERY_SCRIPT
@pytest.mark.parametrize("redirections", ["", "2>/dev/full", "<&- >&- 2>&-"])
def test_a_usage_error_has_its_status_whatever_the_streams_are(
    script: str, redirections: str
) -> None:
    """One line where stderr can be written."""
    done = in_a_shell(_words(script, "--nonsense"), redirections)
    assert (done.returncode, done.stdout) == (2, "")
    lines = [] if "2>" in redirections else [f"{script}: No such option '--nonsense'."]
    assert done.stderr.splitlines() == lines
