"""Runs commands of documents as a user's shell does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tests.docs.documents import ROOT
from tests.timeouts import PROGRAM_TIMEOUT, TIMEOUT
from tests.waiting import wait_until

if TYPE_CHECKING:
    from tests.docs.documents import Block

#: Seconds that a block with the word ``slow`` may take.
SLOW_TIMEOUT = 4 * PROGRAM_TIMEOUT


class Shell:
    """Runs blocks, in order, in a directory of its own.

    Attributes:
        path: the directory.
    """

    def __init__(self) -> None:
        # Sockets are made in it, whose paths must be short.
        self._directory = tempfile.TemporaryDirectory(prefix="docs-")
        self.path = Path(self._directory.name)
        self._background: list[subprocess.Popen[str]] = []

    def run(self, block: Block) -> None:
        """Run a block, or write its file; raises AssertionError with all that it wrote."""
        if block.file:
            (self.path / block.file).write_text(block.commands)
            return
        log = self.path / f".log-{block.line}"
        with log.open("w") as out:
            process = subprocess.Popen(
                ["bash", "-euo", "pipefail", "-c", block.commands],
                cwd=ROOT if block.in_root else self.path,
                env=_environment(self.path),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                text=True,
                start_new_session=True,
            )
        self._background.append(process)
        if block.awaits:
            self._await(block, process, log)
        if not block.background:
            status = process.wait(SLOW_TIMEOUT if block.slow else PROGRAM_TIMEOUT)
            assert status == block.status, f"{block.name}: {status}\n{log.read_text()}"

    def _await(self, block: Block, process: subprocess.Popen[str], log: Path) -> None:
        def exists() -> bool:
            ended = process.poll() is not None  # first: it may make the path, and end
            made = (self.path / block.awaits).exists()
            assert made or not ended, f"{block.name}: it ended\n{log.read_text()}"
            return made

        wait_until(exists, f"{block.name} makes {block.awaits}")

    def close(self) -> None:
        """End what goes on in the background."""
        for process in reversed(self._background):
            for signum in (signal.SIGTERM, signal.SIGKILL):
                try:
                    os.killpg(process.pid, signum)
                    process.wait(TIMEOUT / 4)
                except ProcessLookupError:
                    break
                except subprocess.TimeoutExpired:
                    continue
            process.wait(TIMEOUT)
        self._directory.cleanup()


def _environment(directory: Path) -> dict[str, str]:
    """This project's programs come first, then those in the directory; not pytest's variables."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return {**kept, "PATH": f"{Path(sys.executable).parent}:{directory}:{os.environ['PATH']}"}
