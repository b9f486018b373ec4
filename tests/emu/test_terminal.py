"""What commands print on a real pseudo-terminal of 80 columns, and on a dumb one."""

from __future__ import annotations

import codecs
import fcntl
import os
import re
import shlex
import signal
import struct
import subprocess
import sys
import termios
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import pytest
from rich.cells import cell_len

from tests import slow
from tests.emu.runs import EMU
from tests.reflow import Terminal
from tests.timeouts import PROGRAM_TIMEOUT
from tests.waiting import wait_until
from vhost_user.readiness import readable
from vhost_user.unix_socket import is_listening

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

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


@pytest.mark.parametrize("name", ["-", "/dev/stdout"])
@pytest.mark.parametrize(
    ("option", "command"),
    [
        ("--pcap", ("tap", "--listen", "{folder}/a", "--connect", "{folder}/b")),
        ("--png", ("migrate", *SHAPE)),
        ("--png", ("report", "{folder}/result.json")),
    ],
)
def test_no_binary_data_goes_to_a_terminal(
    option: str, command: tuple[str, ...], name: str, tmp_path: Path
) -> None:
    """Before anything is started."""
    words = tuple(word.format(folder=tmp_path) for word in command)
    status, text = on_a_terminal((*words, option, name), term="xterm")
    assert status == 2
    (line,) = text.splitlines()
    reason = "name a file" if (option, name) == ("--png", "-") else "a terminal cannot show binary"
    assert line.startswith(f"emu: {option} {name}: {reason}")
    assert list(tmp_path.iterdir()) == []


class Shown:
    """A command on a pseudo-terminal that wraps its lines when it gets narrower."""

    def __init__(self, arguments: Sequence[str], owned: ExitStack) -> None:
        self._primary, secondary = os.openpty()
        self._secondary = secondary
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self.terminal = Terminal(COLUMNS)
        self._set_size(COLUMNS)
        environment = {**os.environ, "TERM": "xterm-256color"}
        for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR"):
            environment.pop(name, None)
        self.process = subprocess.Popen(
            [*EMU, *arguments], stdin=secondary, stdout=secondary, stderr=secondary, env=environment
        )
        for fd in (self._primary, secondary):
            owned.callback(os.close, fd)
        owned.callback(self.process.wait)
        owned.callback(self.process.kill)

    def narrow(self, width: int) -> None:
        """Change the width, between two drawings."""
        self.read()
        self.terminal.resize(width)
        self._set_size(width)

    def read(self) -> str:
        """Take what it has written; returns the lines that it shows."""
        while readable([self._primary], 0):
            self.terminal.write(self._decoder.decode(os.read(self._primary, 1 << 16)))
        return "\n".join(self.terminal.text)

    def redrawn_at(self, head: str) -> bool:
        """Whether each line of the table that is drawn again is in one row of the terminal."""
        lines = self.read().splitlines()
        begins = [number for number, line in enumerate(lines) if head in line]
        return bool(begins) and max(map(len, lines[begins[0] :])) <= self.terminal.width

    def await_end(self) -> str:
        """The lines that stay."""
        wait_until(lambda: self.read() and self.process.poll() is not None, "it ends")
        return self.read()

    def _set_size(self, width: int) -> None:
        fcntl.ioctl(self._secondary, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))


@pytest.mark.parametrize("name", ["tap", "top", "run"])
def test_nothing_remains_when_the_terminal_gets_narrower(
    name: str, tmp_path: Path, owned: ExitStack
) -> None:
    """Of what is drawn again and again; at the end what a pipe gets, too, is there."""
    monitor = f"unix:{tmp_path / 'qmp'}"
    vm = ("run", *SHAPE, "--qmp", monitor)
    if name == "top":
        running = owned.enter_context(subprocess.Popen([*EMU, *vm, "--quiet"]))
        owned.callback(running.terminate)
        wait_until(lambda: is_listening(str(tmp_path / "qmp")), "the VM's monitor")
    pair = ("--listen", str(tmp_path / "a"), "--connect", str(tmp_path / "b"))
    shown = Shown({"tap": ("tap", *pair), "top": ("top", monitor), "run": vm}[name], owned)
    head = {"tap": "rings", "top": "device ", "run": "class"}[name]
    wait_until(lambda: head in shown.read(), "the table is drawn")
    for width in (60, 50, 45):
        shown.narrow(width)
        wait_until(lambda: shown.redrawn_at(head), "it is drawn again")
        assert shown.read().count(head) <= 1
    shown.process.send_signal(signal.SIGINT)
    assert shown.await_end().count(head) == (name == "top")
