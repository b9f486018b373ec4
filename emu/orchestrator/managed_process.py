"""The processes that a run starts: their end, and the last line of their stderr."""

from __future__ import annotations

import ctypes
import errno
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from vhost_user import tracing

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

#: This interpreter, without the current directory on its module path.
PYTHON = (sys.executable, "-P")
#: Seconds for a program to end after SIGTERM.
TIMEOUT = 3.0
#: Bytes on disk of a program's output; `ManagedProcess.trim_log` frees all but the last lines then.
MAX_LOG = 1 << 20
_TAIL = 4096
_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1
_FALLOC_FL_KEEP_SIZE = 1
_FALLOC_FL_PUNCH_HOLE = 2


def end_with_parent() -> None:
    """In the child: make the kernel send it SIGTERM when the parent ends, even by SIGKILL."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


class ManagedProcess:
    """A program that has been started.

    It has a process group of its own, so that Ctrl-C on the terminal interrupts the run alone,
    which then ends its programs in order. Its stdout and stderr are redirected to a file, of which
    a `SignalWatcher` keeps the last lines.

    Args:
        title: its name in errors, such as ``back-end blk of side A``.
        argv: the command.
        log: file for its output.
        directory: it starts in this one; by default in that of this process.
        pass_fds: descriptors that it inherits under the same numbers.
        open_stdin: its stdin stays open and empty; some programs end with their stdin.
        whole_group: the processes that it has started, and that are in its process group, are ended
            with it, as those of a shell's command.
        advice: for the error, where it ends with status 0 and has printed nothing.

    Raises:
        OSError: the program cannot be started.
    """

    def __init__(
        self,
        title: str,
        argv: Sequence[str],
        *,
        log: Path,
        directory: Path | None = None,
        pass_fds: Sequence[int] = (),
        open_stdin: bool = False,
        whole_group: bool = False,
        advice: str = "",
    ) -> None:
        self.title = title
        self.whole_group = whole_group
        self._advice = advice
        self._log = log
        log.write_bytes(b"")
        # Appending: writes do not depend on the file's size, which `trim_log` may change.
        with log.open("ab") as stderr:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE if open_stdin else subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                cwd=directory,
                pass_fds=(*pass_fds, *tracing.inherited_fds()),
                env={**os.environ, **tracing.environment(title.replace(" ", "-"))},
                process_group=0,
                # Programs are started before there are other threads, which this needs.
                preexec_fn=end_with_parent,  # noqa: PLW1509
            )
        self.pid = self._process.pid
        self.pidfd = os.pidfd_open(self.pid)

    @property
    def running(self) -> bool:
        """Whether the program has not ended yet."""
        return self.status is None

    @property
    def status(self) -> int | None:
        """Its exit status, negative for a signal; None if it has not ended, or it is unknown.

        It is not taken from the kernel before `reap`: until then no other process, and no other
        group, can have its number.
        """
        if self._process.returncode is not None:
            return self._process.returncode
        ended = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended is None:
            return None
        return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status

    @property
    def succeeded(self) -> bool:
        """Whether the program has ended with status 0."""
        return self.status == 0

    def exit_description(self) -> str:
        """One line with its exit status and the last line of its output."""
        if not await_end([self], 1.0):
            return f"{self.title} does not answer"
        status = self.status or 0
        cause = f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
        said = self.last_line() or (self._advice if not status else "")
        return f"{self.title} ended {cause}" + (f": {said}" if said else "")

    def running_description(self) -> str:
        """For an error about a program that is late: what it does, and the last line of its output.

        The kernel's word for its state is that of proc(5), such as ``disk sleep`` or ``stopped``.
        """
        try:
            status = Path(f"/proc/{self.pid}/status").read_text(errors="replace")
            state = status.partition("\nState:")[2].partition("(")[2].partition(")")[0]
        except OSError:
            state = ""
        last = self.last_line()
        said = f"the last line of its output is: {last}" if last else "it has printed nothing"
        return f"its state is {state or 'unknown'}, {said}"

    def last_line(self) -> str:
        """The last line of its output, or an empty string."""
        try:
            with self._log.open("rb") as log:
                log.seek(max(0, os.fstat(log.fileno()).st_size - _TAIL))
                text = log.read().decode(errors="replace")
        except OSError:
            return ""
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return lines[-1] if lines else ""

    def trim_log(self) -> None:
        """Free the disk space of its output, except for the last lines, once it has `MAX_LOG`."""
        with suppress(OSError), self._log.open("r+b") as log:
            status = os.fstat(log.fileno())
            if status.st_blocks * 512 > MAX_LOG:
                _free(log.fileno(), status.st_size - _TAIL)

    def send(self, signum: int) -> None:
        """Send a signal to the program; no effect if it has ended, or runs as another user."""
        with suppress(ProcessLookupError, PermissionError):
            if self._process.returncode is not None:
                return
            if self.whole_group:
                os.killpg(self.pid, signum)  # also if the program itself has ended
            else:
                os.kill(self.pid, signum)

    def reap(self) -> None:
        """Read the exit status of the program, which has ended or is ending; close its pidfd."""
        try:
            # A busy host may take longer than `TIMEOUT` to end a process that was killed.
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(TIMEOUT)
        finally:
            if self._process.stdin is not None:
                self._process.stdin.close()
            os.close(self.pidfd)


def _free(fd: int, size: int) -> None:
    """Free the disk space of the first bytes of a file that other processes append to."""
    length = ctypes.c_int64(size)
    mode = _FALLOC_FL_KEEP_SIZE | _FALLOC_FL_PUNCH_HOLE
    # A hole, as nothing that is written at the same time is lost.
    if _LIBC.fallocate64(fd, mode, ctypes.c_int64(0), length):
        if ctypes.get_errno() != errno.EOPNOTSUPP:
            return  # the next call tries again
        os.ftruncate(fd, 0)


class Daemon(ManagedProcess):
    """A program that has gone to the background: it is no child, and its exit status is unknown.

    Args:
        title: its name in errors.
        pid: its process id.
        log: file with the output of the program that started it.

    Raises:
        ProcessLookupError: there is no such process.
    """

    def __init__(self, title: str, pid: int, log: Path) -> None:
        self.title = title
        self.whole_group = False
        self._log = log
        self.pid = pid
        self.pidfd = os.pidfd_open(pid)

    @property
    def running(self) -> bool:
        """Whether the program has not ended yet."""
        return not await_end([self], 0.0)

    @property
    def status(self) -> int | None:
        """Unknown."""
        return None

    def exit_description(self) -> str:
        """One line that says that it has ended."""
        last = self.last_line()
        return f"{self.title} ended" + (f": {last}" if last else "")

    def send(self, signum: int) -> None:
        """Send a signal to the program; no effect if it has ended, or runs as another user."""
        with suppress(ProcessLookupError, PermissionError):
            signal.pidfd_send_signal(self.pidfd, signum)

    def reap(self) -> None:
        """Close its pidfd."""
        os.close(self.pidfd)


def await_end(programs: Iterable[ManagedProcess], timeout: float) -> bool:
    """Whether all of them ended within ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    waiting = {program.pidfd for program in programs}
    poll = select.poll()
    for fd in waiting:
        poll.register(fd, select.POLLIN)
    while waiting:
        ready = poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
        if not ready:
            return False
        for fd, _events in ready:
            poll.unregister(fd)
            waiting.discard(fd)
    return True


def end(programs: Sequence[ManagedProcess], timeout: float = TIMEOUT) -> None:
    """End all of them with SIGTERM, or SIGKILL after ``timeout`` seconds, and reap them."""
    with ExitStack() as stack:
        for program in programs:
            stack.callback(program.reap)  # also if another one cannot be reaped
        for program in programs:
            program.send(signal.SIGTERM)
        ended = await_end(programs, timeout)
        for program in programs:
            if program.whole_group or not ended:
                program.send(signal.SIGKILL)
