"""One command as a user starts it: what it prints, how it ends, and what it leaves behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.hostile.cell import ANSWER, Cell, NotOk, Verdict
from tests.timeouts import SCALE
from vhost_user.readiness import readable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

#: The modules of the installed commands.
MODULES = {
    "emu": "emu.cli",
    "vhost-emu-blk": "backends.blk",
    "vhost-emu-net": "backends.net",
    "vhost-emu-rng": "backends.rng",
    "vhost-emu-serve": "backends.serve",
}
#: Seconds that a command may take for the little that cells have it do.
LIMIT = 60.0 * SCALE
#: Characters of a line about an error, besides those of the arguments.
LINE = 1000
#: Statuses of a command that has done its work, has failed, or was used wrongly.
STATUSES = (0, 1, 2)


class Ended(NamedTuple):
    """How a command ended.

    Attributes:
        status: its exit status.
        lines: what it has printed on stderr.
        out: what it has printed on stdout.
    """

    status: int
    lines: list[str]
    out: str


class Commands:
    """Runs the commands of cells, one process each.

    Attributes:
        folder: of a cell's files; empty at its start.
        owned: of the cell that runs.
    """

    def __init__(self, folder: Path, _neighbour_limit: float | None) -> None:
        self._root = folder
        self.owned = ExitStack()
        self.folder = folder

    def run(self, cell: Cell) -> Verdict:
        """Try a cell; see `Cell`."""
        start = time.monotonic()
        complaint = ""
        self.folder = Path(tempfile.mkdtemp(dir=self._root))
        try:
            with self.owned:
                cell.attack(self)
        except (NotOk, OSError) as reason:
            complaint = str(reason)
        shutil.rmtree(self.folder, ignore_errors=True)
        return Verdict(cell, complaint, time.monotonic() - start, 0.0)

    def command(
        self,
        argv: Sequence[str | bytes],
        *,
        stop: Callable[[Path], bool] | None = None,
        before: Sequence[str] = (),
        pass_fds: Sequence[int] = (),
        tmpdir: Path | None = None,
    ) -> Ended:
        """Run a command to its end, and judge it.

        Args:
            argv: the command's name, and its arguments.
            stop: called with the file of its stderr, again and again: true when the command does
                its work, which SIGTERM then ends.
            before: words before the command.
            pass_fds: descriptors that it inherits.
            tmpdir: its TMPDIR; by default a new directory.

        Raises:
            NotOk: there is a traceback, no clear line about a failure, or something left behind.
        """
        name = os.fsdecode(argv[0])
        words = [sys.executable, "-m", MODULES[name], *argv[1:]]
        tmp = tmpdir
        if tmp is None:
            tmp = Path(tempfile.mkdtemp(dir=self._root, prefix="tmp-"))
            self.owned.callback(shutil.rmtree, tmp, ignore_errors=True)
        log = self._root / f"stderr-{time.monotonic_ns()}"
        self.owned.callback(log.unlink, missing_ok=True)
        with log.open("wb") as stderr:
            process = subprocess.Popen(
                [*before, *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                cwd=self.folder,
                env={**os.environ, "TMPDIR": str(tmp), _MARK: str(log)},
                pass_fds=pass_fds,
                start_new_session=True,
            )
        out, stopped = _await_end(process, log, stop)
        text = log.read_text(errors="replace")
        ended = Ended(process.returncode, text.splitlines(), out.decode(errors="replace"))
        _judge(name, ended, sum(map(len, argv)), stopped=stopped)
        _await_no_process(str(log))
        if tmpdir is None and (left := [path.name for path in tmp.iterdir()]):
            raise NotOk(f"left in TMPDIR: {left[:3]}")
        return ended

    def serve(self, argv: Sequence[str | bytes], **more: Any) -> Ended:
        """Run a back-end program until it serves, or ends; see `command`."""
        ready, ready_fd = os.pipe2(os.O_CLOEXEC)
        self.owned.callback(os.close, ready)

        def serves(_log: Path) -> bool:
            return bool(readable([ready], 0)) and bool(os.read(ready, 1))

        try:
            words = [*argv, "--ready-fd", str(ready_fd)]
            fds = [*more.pop("pass_fds", ()), ready_fd]
            return self.command(words, stop=serves, pass_fds=fds, **more)
        finally:
            os.close(ready_fd)

    def end(self) -> str:
        """Nothing runs between two cells."""
        return ""

    def discard(self) -> None:
        """Nothing runs between two cells."""


#: In the environment of a cell's command and of all that it starts.
_MARK = "HOSTILE_CELL"


def _await_end(
    process: subprocess.Popen[bytes], log: Path, stop: Callable[[Path], bool] | None
) -> tuple[bytes, bool]:
    """What it has printed at its end, and whether SIGTERM has ended it."""
    deadline = time.monotonic() + LIMIT
    stopped = False
    while True:
        try:
            out, _ = process.communicate(timeout=0.02 if stop is not None else LIMIT)
        except subprocess.TimeoutExpired:
            if time.monotonic() > deadline:
                _kill(process)
                last = log.read_text(errors="replace")[-200:]
                raise NotOk(f"has not ended within {LIMIT:g} s: {last}") from None
            if stop is not None and stop(log):
                stop, stopped = None, True
                process.send_signal(signal.SIGTERM)
        else:
            return out, stopped


def _kill(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def _judge(name: str, ended: Ended, typed: int, *, stopped: bool) -> None:
    status, lines, out = ended
    for line in (*lines, *out.splitlines()):
        if "Traceback" in line or "Exception ignored" in line:
            raise NotOk(f"a traceback: {lines[-1][:200]}")
    wanted = (0, 128 + signal.SIGTERM) if stopped else STATUSES
    if status not in wanted:
        raise NotOk(f"status {status}: {' / '.join(lines[-2:])[:200]}")
    if status and not stopped:
        if not lines:
            raise NotOk(f"status {status} without a line")
        last = lines[-1]
        if not last.startswith(f"{name}: "):
            raise NotOk(f"its last line is not about the failure: {last[:200]}")
        if not last.isprintable():
            raise NotOk(f"its last line does not print: {last[:200]!r}")
        if len(last) > LINE + 4 * typed:
            raise NotOk(f"its last line has {len(last)} characters")


def _await_no_process(mark: str) -> None:
    """Return when no process of the command is left."""
    end = time.monotonic() + ANSWER / 2
    while left := _of_cell(mark):
        if time.monotonic() > end:
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            raise NotOk(f"{len(left)} processes are left")
        time.sleep(0.02)


def _of_cell(mark: str) -> list[int]:
    wanted = f"{_MARK}={mark}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found


def printed(words: str) -> Callable[[Path], bool]:
    """For `Commands.command`: whether the words are on stderr."""
    return lambda log: words in log.read_text(errors="replace")
