"""What a session of tests has left behind: files in its temporary directory, and processes.

The session has a temporary directory of its own, so that two sessions side by side do not meet. At
its end the directory must be empty but for pytest's own part of it, and no process that a test has
started may run. What is left is named with the test that has left it, and the session fails.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

#: Names the session in the environment of every process that its tests start.
SESSION = "VHOST_EMU_TEST_SESSION"
#: What pytest sets for the test that runs.
CURRENT_TEST = "PYTEST_CURRENT_TEST"
#: Pytest's own part of the temporary directory; a short name, as sockets have short paths.
BASE = "p"
#: The log of names that were seen after a test: path, tab, test.
SEEN = ".seen"
#: Seconds for processes that are about to end.
PROCESS_END_TIMEOUT = 5.0


class Leftover(NamedTuple):
    """A file or a process, and the test that it is of, as far as that is known."""

    what: str
    test: str

    def __str__(self) -> str:
        """A line for the report."""
        return f"{self.what} (of {self.test or 'an unknown test'})"


class TemporaryDirectory:
    """A session's directory: `tempfile`, and every program that a test starts, use it.

    Each worker of pytest-xdist has a part of it, so that a file is of the test that the worker ran.

    Args:
        worker: the worker's name; "" for the session itself, which makes the directory.
    """

    def __init__(self, worker: str = "") -> None:
        self.session = Path(
            os.environ[SESSION] if worker else tempfile.mkdtemp(prefix="vhost-test-")
        )
        self.path = self.session / worker
        self.path.mkdir(exist_ok=True)
        self._known = {BASE, SEEN}
        os.environ["TMPDIR"] = str(self.path)
        os.environ[SESSION] = str(self.session)
        tempfile.tempdir = None

    @property
    def base(self) -> Path:
        """For pytest's ``--basetemp``."""
        return self.session / BASE

    def look(self, test: str) -> None:
        """Write down the names that have come with this test."""
        names = {entry.name for entry in os.scandir(self.path)} - self._known
        if names:
            self._known |= names
            with (self.session / SEEN).open("a") as seen:
                seen.writelines(f"{self.path / name}\t{test}\n" for name in names)

    def left(self) -> list[Leftover]:
        """What is there now, in the parts of all workers, too."""
        seen = self.session / SEEN
        lines = seen.read_text().splitlines() if seen.exists() else []
        tests = {path: test for path, _, test in (line.partition("\t") for line in lines)}
        found = []
        entries = sorted(self.session.iterdir()) if self.session.exists() else []
        for entry in entries:
            if entry.name not in (BASE, SEEN):
                found += list(entry.iterdir()) if entry.name.startswith("gw") else [entry]
        return [Leftover(str(path), tests.get(str(path), "")) for path in found]

    def remove(self) -> None:
        """Remove it with all that is in it."""
        shutil.rmtree(self.session, ignore_errors=True)


def processes_of(session: str) -> list[Leftover]:
    """The processes that the session's tests have started and that run, this process excepted."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with suppress(OSError):
            environment = (entry / "environ").read_bytes().split(b"\0")
            if f"{SESSION}={session}".encode() not in environment:
                continue
            words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if not words:  # it has ended, and its parent has not asked for its status yet
                continue
            prefix = f"{CURRENT_TEST}=".encode()
            test = next((word for word in environment if word.startswith(prefix)), prefix)
            name = test[len(prefix) :].decode(errors="replace").rpartition(" (")[0]
            found.append(Leftover(f"process {entry.name}: {words.strip()[:150]}", name))
    return found


def await_no_processes(session: str) -> list[Leftover]:
    """Those that are left after some time for what is ending."""
    end = time.monotonic() + PROCESS_END_TIMEOUT
    while (left := processes_of(session)) and time.monotonic() < end:
        time.sleep(0.05)  # processes of processes; no event tells of their end
    return left
