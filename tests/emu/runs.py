"""An `emu` that runs, as a user started it: what it prints, and how it ends."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import psutil

from tests.timeouts import PROGRAM_TIMEOUT, TIMEOUT
from tests.waiting import running, wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence

EMU = (sys.executable, "-m", "emu.cli")


class Ended(NamedTuple):
    """The exit status of a run, and what it has printed."""

    status: int
    out: str
    err: str

    @property
    def last(self) -> str:
        """The last line on stderr."""
        return self.err.strip().splitlines()[-1]


class Run:
    """One `emu`, whose stderr goes to a file as it comes.

    Args:
        log: the file.
        argv: the arguments of `emu`.
        before: words before the command itself.

    Attributes:
        log: the file.
        tmp: its ``TMPDIR``, where nothing may be left.
    """

    def __init__(self, log: Path, argv: Sequence[str], *, before: Sequence[str] = ()) -> None:
        self.log = log
        # A socket's path must be short.
        self.tmp = Path(tempfile.mkdtemp(prefix="emu-test-"))
        with self.log.open("wb") as err:
            self.process = subprocess.Popen(
                [*before, *EMU, *argv],
                stdout=subprocess.PIPE,
                stderr=err,
                text=True,
                env={**os.environ, "TMPDIR": str(self.tmp)},
            )

    def await_line(self, words: str, *, count: int = 1) -> str:
        """The line on stderr with these words in it; of several the one with this number."""
        found: list[str] = []

        def printed() -> bool:
            ended = self.process.poll() is not None  # first: the line may be its last one
            text = self.log.read_text()
            found[:] = [line for line in text.splitlines() if words in line]
            assert len(found) >= count or not ended, f"it has ended: {text}"
            return len(found) >= count

        wait_until(printed, f"{words!r} is printed")
        return found[count - 1]

    def interrupt(self) -> None:
        """Ctrl-C; every program of the run must have ended when it has."""
        self.process.send_signal(signal.SIGINT)

    def close(self) -> None:
        """End what a test that failed has left, and remove its directory."""
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(TIMEOUT)
        assert self.process.stdout is not None
        self.process.stdout.close()
        shutil.rmtree(self.tmp, ignore_errors=True)

    def end(self) -> Ended:
        """The end that it comes to by itself; nothing of it may be left."""
        family = psutil.Process(self.process.pid).children(recursive=True)
        out, _ = self.process.communicate(timeout=PROGRAM_TIMEOUT)
        assert not running(family)
        self.tmp.rmdir()  # which fails if anything is left in it
        return Ended(self.process.returncode, out, self.log.read_text())
