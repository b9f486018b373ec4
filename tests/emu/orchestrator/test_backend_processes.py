"""The back-end programs of one side, with the real programs."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
from pathlib import Path

import pytest

from emu.errors import ProgramError
from emu.orchestrator import backend_processes
from emu.orchestrator.backend_processes import BackendProcesses
from emu.orchestrator.run_directory import RunDirectory
from emu.orchestrator.signals import SignalWatcher
from tests.emu.fake_runs import machine_plan, no_leftovers
from tests.timeouts import TIMEOUT


def test_all_programs_listen_when_they_are_ready() -> None:
    """After the stop no process and no socket is left."""
    with no_leftovers() as pids, RunDirectory() as directory, SignalWatcher() as watcher:
        backends = BackendProcesses("A", machine_plan(stop_time=20_000_000), directory, watcher)
        try:
            backends.start()
            backends.await_ready()
            pids.extend(backends.pids)
            assert len(backends.pids) == 4
            for path in backends.sockets.values():
                with socket.socket(socket.AF_UNIX) as sock:
                    sock.connect(path)
            assert all(Path(path).exists() for path in backends.uplinks)
            assert backends.served() == 0
            assert backends.totals()["net"]["packets_tx"] == 0
        finally:
            backends.stop()
        assert not any(
            Path(path).exists() for path in (*backends.sockets.values(), *backends.uplinks)
        )


def test_a_socket_in_use_is_an_error_of_the_program_that_binds_it() -> None:
    """The error has the last line of its stderr."""
    with no_leftovers(), RunDirectory() as directory, SignalWatcher() as watcher:
        backends = BackendProcesses("A", machine_plan(), directory, watcher)
        try:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.bind(backends.sockets["blk1"])
                sock.listen()
                backends.start()
                with pytest.raises(ProgramError, match=r"blk-1 of side A ended .*blk1\.sock"):
                    backends.await_ready()
        finally:
            backends.stop()


def test_the_next_wait_raises_the_end_of_a_program() -> None:
    """Any wait of the run."""
    with no_leftovers(), RunDirectory() as directory, SignalWatcher() as watcher:
        backends = BackendProcesses("B", machine_plan(), directory, watcher)
        try:
            backends.start()
            backends.await_ready()
            os.kill(backends.pids[0], signal.SIGKILL)
            with pytest.raises(ProgramError, match="back-end net-0 of side B ended by SIGKILL"):
                watcher.pause(TIMEOUT)
        finally:
            backends.stop()


def test_a_program_that_is_not_ready_in_time_is_named_with_what_it_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """How long the run has waited, too."""
    never = (sys.executable, "-c", "import time; time.sleep(600)")
    monkeypatch.setattr(backend_processes, "PYTHON", never)
    with no_leftovers(), RunDirectory() as directory, SignalWatcher() as watcher:
        backends = BackendProcesses("A", machine_plan(), directory, watcher)
        try:
            backends.start()
            with pytest.raises(ProgramError) as late:
                backends.await_ready(timeout=0.2)
        finally:
            backends.stop()
    expected = (
        r"back-end \S+ of side A is not ready after 0\.2 s: its state is .+, it has printed .*"
    )
    assert re.fullmatch(expected, str(late.value))
