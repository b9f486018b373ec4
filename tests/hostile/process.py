"""A program under attack: what it prints, what it holds, and what it takes of the processor."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tests.hostile.cell import ANSWER, NotOk
from tests.timeouts import PROGRAM_TIMEOUT
from vhost_user_conformance.peer.processor_time import per_thread

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: Bytes that the allocator may keep; a sanitizer keeps much of what was freed.
SLACK = (48 << 20) * (8 if "ASAN_OPTIONS" in os.environ else 1)
#: Threads that a program starts when it first needs them.
POOL_THREADS = 8
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Footprint(NamedTuple):
    """What a process holds."""

    fds: int
    shared_maps: int
    resident: int
    threads: int

    def exceeds(self, before: Footprint) -> str:
        """What is more than before, or ""."""
        if self.fds > before.fds:
            return f"{before.fds} descriptors before, {self.fds} afterwards"
        if self.shared_maps > before.shared_maps:
            return f"{before.shared_maps} shared mappings before, {self.shared_maps} afterwards"
        if self.resident > before.resident + SLACK:
            return f"{before.resident >> 20} MiB before, {self.resident >> 20} MiB afterwards"
        if self.threads > before.threads + POOL_THREADS:
            return f"{before.threads} threads before, {self.threads} afterwards"
        return ""


class Process:
    """A program with its standard error in a file.

    Args:
        command: to start.
        folder: of its files.
        ready: it has ``--ready-fd``, and serves when it has written there.
    """

    def __init__(
        self,
        command: Sequence[str],
        folder: Path,
        *,
        ready: bool = False,
        env: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        self.lines = folder / f"stderr-{time.monotonic_ns()}"
        self._seen = 0
        started, ready_fd = os.pipe()
        extra = ["--ready-fd", str(ready_fd)] if ready else []
        with self.lines.open("wb") as stderr:
            self._process = subprocess.Popen(
                [*command, *extra],
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                pass_fds=[*pass_fds, *([ready_fd] if ready else [])],
                env={**os.environ, **(env or {})},
            )
        os.close(ready_fd)
        try:
            if ready and not os.read(started, 1):
                raise NotOk(f"does not start: {self.new_lines()}")
        finally:
            os.close(started)
        self.pid = self._process.pid

    @property
    def status(self) -> int | None:
        """The exit status; None while it runs."""
        return self._process.poll()

    def new_lines(self) -> list[str]:
        """What it has printed since the last look."""
        data = self.lines.read_bytes()
        new, self._seen = data[self._seen :], len(data)
        return new.decode(errors="replace").splitlines()

    def footprint(self) -> Footprint:
        """What it holds now."""
        proc = Path(f"/proc/{self.pid}")
        maps = (proc / "maps").read_text().splitlines()
        shared = sum(line.split(maxsplit=2)[1].endswith("s") for line in maps)
        resident = int((proc / "statm").read_text().split()[1]) * _PAGE
        fds, threads = (sum(1 for _ in (proc / name).iterdir()) for name in ("fd", "task"))
        return Footprint(fds, shared, resident, threads)

    def processor_time(self) -> float:
        """Seconds of processor time that its threads have used."""
        return sum(thread.ran for thread in per_thread(self.pid)) / 1e9

    def waited_for_processor(self) -> float:
        """Seconds that its threads were ready to run while others ran."""
        return sum(thread.waited for thread in per_thread(self.pid)) / 1e9

    def wait(self, timeout: float = PROGRAM_TIMEOUT) -> int:
        """Its status at its end.

        Raises:
            NotOk: it does not end.
        """
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise NotOk(f"has not ended within {timeout:g} s") from None

    def signal(self, signum: signal.Signals) -> None:
        """Send a signal, if it still runs."""
        if self.status is None:
            self._process.send_signal(signum)

    def end(self, statuses: Sequence[int] = (0,)) -> str:
        """SIGTERM; what was wrong with its end, or ""."""
        if self.status is not None:
            return f"had ended with status {self.status}"
        self.signal(signal.SIGTERM)
        try:
            ended = self._process.wait(ANSWER)
        except subprocess.TimeoutExpired:
            self.kill()
            return f"did not end within {ANSWER:g} s of SIGTERM"
        lines = self.new_lines()
        if any("Traceback" in line for line in lines):
            return f"a traceback at SIGTERM: {lines[-1]}"
        return "" if ended in statuses else f"ended with status {ended} at SIGTERM"

    def kill(self) -> None:
        """End it at once."""
        if self.status is None:
            self._process.kill()
        self._process.wait()
        self.lines.unlink(missing_ok=True)
