"""The peer under test: a program that is started, or a socket that a program listens on."""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import signal
import socket
import stat
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

from vhost_user.one_line import one_line
from vhost_user.readiness import readable
from vhost_user_conformance.errors import OptionError, PeerError
from vhost_user_conformance.peer.spawn import end_with_parent, signal_session, signals_deferred

if TYPE_CHECKING:
    from collections.abc import Callable

#: A program may take this many times the time limit for an answer until it listens or connects: it
#: starts, and the host may be busy.
CONNECT_FACTOR = 30
#: Seconds for a program to end after SIGTERM.
END_TIMEOUT = 3.0
_RETRY = 0.01
_TAIL = 4096
#: Characters of the last line.
_LINE = 400
_NOT_YET = (FileNotFoundError, ConnectionRefusedError, BlockingIOError)


class PeerProgram:
    """A program under test: ``{socket}`` in its command is replaced by the socket's path.

    Its standard input is a pipe that stays open, as dpdk-testpmd ends at its end.

    Args:
        command: quoted as for a shell, but run without one.
        path: of the socket.
        log: file for its output.
        qmp: replaces ``{qmp}``: where a front-end is to serve QMP.
        listens: the program makes the socket; else the suite listens there.
        incoming: replaces ``{incoming}``: where it is to await a migration.
        option: that the command is the value of, for errors.

    Raises:
        OptionError: the command is invalid.
    """

    def __init__(
        self,
        command: str,
        path: Path,
        log: Path,
        *,
        qmp: Path | None = None,
        listens: bool = True,
        incoming: Path | None = None,
        option: str = "--exec",
    ) -> None:
        try:
            words = shlex.split(command)
        except ValueError as error:
            raise OptionError(f"{option} {command!r}: {error}") from None
        if not any("{socket}" in word for word in words):
            raise OptionError(
                f"{option}: write {{socket}} where the program takes the socket's path"
            )
        #: The words of the command, without replacements.
        self.words = tuple(words)
        values = {"{socket}": str(path), "{qmp}": str(qmp), "{incoming}": str(incoming)}
        for placeholder, value in values.items():
            words = [word.replace(placeholder, value) for word in words]
        self._argv = words
        self._made_by_it = [
            made for made in (path if listens else None, qmp, incoming) if made is not None
        ]
        self._option = option
        self._log = log
        self._asked_to_end = False
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def command(self) -> str:
        """The command as it is run."""
        return shlex.join(self._argv)

    def start(self) -> None:
        """Start it.

        Raises:
            PeerError: it cannot be started.
        """
        self._clear()
        self._asked_to_end = False
        with self._log.open("wb") as log, signals_deferred():
            try:
                self._process = subprocess.Popen(
                    self._argv,
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    # It takes no lock that the thread of the progress line could hold.
                    preexec_fn=end_with_parent,  # noqa: PLW1509
                )
            except OSError as error:
                raise PeerError(f"{self._option} {self._argv[0]}: {error.strerror}") from None

    @property
    def pid(self) -> int:
        """Id of its process, or 0."""
        return 0 if self._process is None else self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has been started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def ends_within(self, timeout: float) -> bool:
        """Whether it ends by itself within ``timeout`` seconds."""
        if self._process is None:
            return True
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout)
        return not self.running

    def ask_to_end(self) -> None:
        """SIGTERM."""
        if self._process is not None:
            self._asked_to_end = True
            self._process.terminate()

    @property
    def asked_to_end(self) -> bool:
        """Whether `ask_to_end` was called since it was started."""
        return self._asked_to_end

    @property
    def terminated(self) -> bool:
        """Whether SIGTERM has ended it after `ask_to_end`, and no other signal."""
        ended = None if self._process is None else self._process.poll()
        return self._asked_to_end and ended == -signal.SIGTERM

    @property
    def how_it_ended(self) -> str:
        """``by SIGSEGV``, ``with status 1``, or nothing while it runs."""
        status = None if self._process is None else self._process.poll()
        if status is None:
            return ""
        return f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"

    @property
    def exit_description(self) -> str:
        """How it ended, and the last line of its output."""
        return ": ".join(part for part in (self.how_it_ended, self.last_line) if part)

    @property
    def crashed(self) -> bool:
        """Whether a signal has ended it."""
        status = None if self._process is None else self._process.poll()
        return status is not None and status < 0

    @property
    def failed(self) -> bool:
        """Whether it has ended with another status than 0."""
        status = None if self._process is None else self._process.poll()
        return status is not None and status != 0

    @property
    def last_line(self) -> str:
        """The last line of its output, without what a terminal would obey."""
        try:
            with self._log.open("rb") as log:
                log.seek(max(0, os.fstat(log.fileno()).st_size - _TAIL))
                text = log.read(_TAIL).decode(errors="replace")
        except OSError:
            return ""
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return one_line(lines[-1], _LINE) if lines else ""

    @property
    def descriptors(self) -> int:
        """The number of its open files."""
        if self._process is None:
            return 0
        return len(os.listdir(f"/proc/{self._process.pid}/fd"))  # noqa: PTH208  no files

    @property
    def mappings(self) -> int:
        """The number of its mappings of the suite's memory files."""
        return self.mapped("conformance")

    def mapped(self, name: str) -> int:
        """The number of its mappings of memfds with this name."""
        if self._process is None:
            return 0
        maps = Path(f"/proc/{self._process.pid}/maps").read_text(errors="replace")
        return maps.count(f"memfd:{name}")

    @property
    def threads(self) -> int:
        """The number of its threads."""
        if self._process is None:
            return 0
        return len(os.listdir(f"/proc/{self._process.pid}/task"))  # noqa: PTH208  no files

    def stop(self) -> None:
        """End it and the processes that it has started: its whole session."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        for signum in (signal.SIGTERM, signal.SIGKILL):
            if not signal_session(process.pid, signum):
                break
            deadline = time.monotonic() + END_TIMEOUT
            while time.monotonic() < deadline and signal_session(process.pid, 0):
                # Not the process alone: a shell may end before the programs that it has started.
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_RETRY)
                    readable([], _RETRY)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(END_TIMEOUT)
        self._clear()

    def _clear(self) -> None:
        """Remove the sockets that it has made, but no other kind of file."""
        for path in self._made_by_it:
            with contextlib.suppress(OSError):
                if stat.S_ISSOCK(path.lstat().st_mode):
                    path.unlink()


def connect(path: Path, *, timeout: float, gone: Callable[[], str]) -> socket.socket:
    """Connect to a peer's socket, as soon as it listens.

    Args:
        path: of the socket.
        timeout: seconds to wait for it.
        gone: why no peer will listen, or nothing.

    Raises:
        PeerError: no program listens there.
    """
    deadline = time.monotonic() + timeout
    poll = select.poll()
    while True:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.connect(str(path))
        except _NOT_YET as error:
            sock.close()
            why = gone()
            if why:
                raise PeerError(why) from None
            if time.monotonic() > deadline:
                raise PeerError(f"no program listens on {path}: {error.strerror}") from None
            poll.poll(_RETRY * 1000)
        except OSError as error:
            sock.close()
            raise PeerError(f"{path}: {error.strerror or error}") from None
        else:
            return sock
