"""A program and the terminal that it was started from."""
# ruff: noqa: D102, D103 - the names say what they are about

from __future__ import annotations

import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.backends.rig import Rig
from tests.backends.served import KINDS, Kind
from tests.timeouts import TIMEOUT
from vhost_user.frontend import FrontendConnection
from vhost_user.readiness import readable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

#: A shell that is the session's leader, and starts a program in the foreground: in its own group.
SHELL = ["/bin/sh", "-c", '"$@" & wait $!', "sh"]
NOHUP = ["nohup"]


class Started(NamedTuple):
    """A program, or the command that started it, in a session with a terminal of its own."""

    process: subprocess.Popen[bytes]
    terminal: int
    path: Path
    alive: int

    def close_terminal(self) -> None:
        os.close(self.terminal)

    def serves(self, kind: Kind) -> bool:
        """It replies, and does a piece of work."""
        rig = Rig(FrontendConnection.connect(str(self.path), name="terminal"), kind.rings)
        rig.start()
        kind.prepare(rig)
        kind.work(rig)
        rig.close()
        return True

    def ended(self) -> bool:
        """Each of its processes has ended: they hold one end of a pipe."""
        return bool(readable([self.alive], TIMEOUT))


@contextmanager
def started(kind: Kind, folder: Path, before: Sequence[str] = ()) -> Iterator[Started]:
    primary, secondary = pty.openpty()
    ready, ready_fd = os.pipe()
    alive, held = os.pipe()
    path = folder / "s.sock"
    options = ["--socket-path", str(path), "--ready-fd", str(ready_fd)]

    def own_terminal() -> None:
        fcntl.ioctl(secondary, termios.TIOCSCTTY, 0)

    process = subprocess.Popen(
        [*before, *kind.arguments(folder), *options],
        cwd=folder,
        stdin=secondary,
        stdout=secondary,
        stderr=secondary,
        start_new_session=True,
        preexec_fn=own_terminal,  # noqa: PLW1509  no thread runs here
        pass_fds=[ready_fd, held],
    )
    for fd in (secondary, ready_fd, held):
        os.close(fd)
    try:
        assert readable([ready], TIMEOUT)
        assert os.read(ready, 1)
        yield Started(process, primary, path, alive)
    finally:
        os.close(ready)
        os.close(alive)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(TIMEOUT)


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]()


@pytest.mark.parametrize("before", [(), SHELL], ids=["leader", "child of a shell"])
def test_ends_when_the_terminal_closes(kind: Kind, tmp_path: Path, before: list[str]) -> None:
    with started(kind, tmp_path, before) as program:
        assert program.serves(kind)
        program.close_terminal()
        assert program.ended()
        assert not program.path.exists(), "it has ended as at SIGTERM"


def test_ends_when_its_shell_is_killed(kind: Kind, tmp_path: Path) -> None:
    with started(kind, tmp_path, SHELL) as program:
        program.process.kill()
        assert program.ended()
        assert not program.path.exists()
        program.close_terminal()


def test_sighup_with_a_terminal_that_is_open(kind: Kind, tmp_path: Path) -> None:
    """Refreshes the devices of a program that can do that, and ends others as SIGTERM does."""
    with started(kind, tmp_path) as program:
        program.process.send_signal(signal.SIGHUP)
        if kind.refreshes:
            assert program.serves(kind)
            program.process.terminate()
        assert program.process.wait(TIMEOUT) == 0
        program.close_terminal()


def test_nohup(kind: Kind, tmp_path: Path) -> None:
    with started(kind, tmp_path, NOHUP) as program:
        program.close_terminal()
        assert program.serves(kind)
        program.process.send_signal(signal.SIGHUP)
        assert program.serves(kind)
        program.process.terminate()
        assert program.process.wait(TIMEOUT) == 0


def test_a_process_without_a_terminal() -> None:
    """It never reports that its terminal has closed."""
    script = "from backends.terminal import Terminal; print(Terminal().closed())"
    done = subprocess.run(
        [sys.executable, "-c", script], start_new_session=True, capture_output=True, check=True
    )
    assert done.stdout == b"False\n"
