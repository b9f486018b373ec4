"""What commands print on a real pseudo-terminal of 80 columns, and on a dumb one."""

from __future__ import annotations

import fcntl
import os
import re
import shlex
import struct
import subprocess
import sys
import termios
from contextlib import suppress

import pytest
from rich.cells import cell_len

from tests import slow
from tests.emu.runs import EMU
from tests.timeouts import PROGRAM_TIMEOUT

COLUMNS = 80
SMALL = ("--vcpus", "1", "--memory", "256M", "--accel", "soft")
SHAPE = ("--net", "1x2", "--blk", "1x1", "--rng", "1x1", *SMALL)
PYTHON = shlex.quote(sys.executable)
#: All that print more than a line, each in its own way.
COMMANDS = {
    "migrate": ("migrate", *SHAPE, "--strategy", "qemu-2021,threads,split,prewired"),
    "migrate-repeat": ("migrate", *SHAPE, "--strategy", "qemu-2021,prewired", "--repeat", "2"),
    "sweep": ("sweep", "--devices", "2,3", "--rings", "2", "--repeat", "1", *SMALL),
    "run": ("run", *SHAPE, "--for", "2s"),
    "doctor": ("doctor",),
    "list": ("conform", "back-end", "--list"),
    "list-front-end": ("conform", "front-end", "--list"),
    "conform": (
        *("conform", "back-end", "--only", "framing", "-v", "--exec"),
        f"{PYTHON} -m backends.net --socket-path {{socket}}",
    ),
    "no command": (),
    "conform help": ("conform", "back-end", "--help"),
    "migrate help": ("migrate", "--help"),
}
EVERY_COMMAND = pytest.mark.parametrize("command", slow.all_but({"conform"}, COMMANDS))
_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def on_a_terminal(arguments: tuple[str, ...], *, term: str) -> tuple[int, str]:
    """The status, and all that the command has written to its terminal."""
    primary, secondary = os.openpty()
    fcntl.ioctl(secondary, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
    environment = {**os.environ, "TERM": term}
    for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR"):
        environment.pop(name, None)
    with subprocess.Popen(
        [*EMU, *arguments],
        stdin=secondary,
        stdout=secondary,
        stderr=secondary,
        env=environment,
        start_new_session=True,
    ) as process:
        os.close(secondary)
        data = b""
        with suppress(OSError):  # EIO: the last process has closed the terminal
            while part := os.read(primary, 1 << 16):
                data += part
        os.close(primary)
        status = process.wait(PROGRAM_TIMEOUT)
    return status, data.decode()


def lines_of(text: str) -> list[str]:
    """The lines as they are at some time, without colours; one may be drawn several times."""
    return [part for line in text.split("\n") for part in _ESCAPE.sub("", line).split("\r")]


@EVERY_COMMAND
def test_no_line_is_longer_than_the_terminal_is_wide(command: str) -> None:
    """A table would be broken in the middle of its rows."""
    status, text = on_a_terminal(COMMANDS[command], term="xterm-256color")
    assert status in (0, 2) if command == "no command" else status == 0, text
    assert [line for line in lines_of(text) if cell_len(line) > COLUMNS] == []


@EVERY_COMMAND
def test_a_dumb_terminal_gets_plain_lines(command: str) -> None:
    """It knows no escape sequences; what takes long reports all the same what it does."""
    status, text = on_a_terminal(COMMANDS[command], term="dumb")
    assert status in (0, 2) if command == "no command" else status == 0, text
    assert "\x1b" not in text
    rows = [line for line in lines_of(text) if "─" in line or "|" in line]
    assert [row for row in rows if cell_len(row) > COLUMNS] == []
    if command in ("migrate", "sweep", "run"):
        assert "start: " in text
        assert "boot: " in text
    if command == "conform":
        assert re.search(r"back-end: \d+ cases\r?\n", text)
        assert "VU-B-" in text
