"""Cases about program conventions, on programs that break them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.waiting import running, wait_until
from vhost_user.features import SPEC
from vhost_user_conformance.back_end.cases.program import _answers, area
from vhost_user_conformance.back_end.connection import BackEnd
from vhost_user_conformance.model.verdict import Failed, Unsupported
from vhost_user_conformance.peer.program import PeerProgram
from vhost_user_conformance.peer.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Bench:
    """Runs one case on a program; the peer of its connection only answers GET_FEATURES."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._programs: list[PeerProgram] = []

    def judge(self, number: int, command: str, *, start: bool = False) -> None:
        """Raises as the case does."""
        ours, theirs = socket.socketpair()
        with theirs:
            be = BackEnd(Wire(ours, {}, 1.0), "", SPEC)
            program = PeerProgram(command, self._folder / "s", self._folder / "log")
            self._programs.append(program)
            be.program = program
            if start:
                program.start()
                wait_until(lambda: program.last_line == "ready", "the program is ready")
                # An answer to GET_FEATURES, which the case waits for first.
                theirs.send(bytes.fromhex("01000000 05000000 08000000") + bytes(8))
            (case,) = [case for case in area.cases if case.id == f"VU-B-{number}"]
            theirs.shutdown(socket.SHUT_WR)
            try:
                case.run(be)
            finally:
                be.close()

    def close(self) -> None:
        """End what was started."""
        for program in self._programs:
            program.stop()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """A place to run programs."""
    made = Bench(tmp_path)
    yield made
    made.close()


def shell(script: str) -> str:
    """A command that has the socket's path among its words, and runs this script."""
    return f"sh -c '{script}' --socket-path={{socket}}"


@pytest.mark.parametrize(
    ("number", "script"),
    [
        (2501, "echo nothing of the kind"),
        (2501, "echo []"),
        (2502, 'echo "{\\"type\\": \\"toaster\\"}"'),
        (2502, 'echo "{\\"type\\": \\"net\\", \\"features\\": [1]}"'),
        (2506, "exit 0"),
        (2507, "exit 0"),
    ],
)
def test_a_program_that_does_it_wrong(bench: Bench, number: int, script: str) -> None:
    """Fails."""
    with pytest.raises(Failed):
        bench.judge(number, shell(script))


def test_a_program_that_does_not_know_the_option(bench: Bench) -> None:
    """It is UNSUPPORTED."""
    with pytest.raises(Unsupported, match="status 3"):
        bench.judge(2501, shell("exit 3"))
    with pytest.raises(Unsupported, match="--socket-path"):
        bench.judge(2506, "true {socket}")


@pytest.mark.slow
def test_a_program_that_does_not_end(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """It fails, and so does one that ends by another signal; one that ends normally passes."""
    monkeypatch.setattr("vhost_user_conformance.back_end.cases.program.SOON", 0.5)
    rest = "echo ready; while :; do sleep 0.05; done"
    for reaction in ('""', '"kill -9 $$"'):
        with pytest.raises(Failed):
            bench.judge(2504, shell(f"trap {reaction} TERM; {rest}"), start=True)
    bench.judge(2504, shell(rest), start=True)


def test_a_program_that_prints_what_it_should(bench: Bench) -> None:
    """Passes."""
    printed = 'echo "{\\"type\\": \\"net\\"}"'
    bench.judge(2501, shell(printed))
    bench.judge(2502, shell(printed))
    bench.judge(2507, shell("exit 1"))


def test_a_second_program_does_not_outlive_its_case(tmp_path: Path) -> None:
    """Nor do the programs that it has started, although no connection is possible."""
    ours, theirs = socket.socketpair()
    be = BackEnd(Wire(ours, {}, 1.0), "", SPEC)
    child = tmp_path / "child"
    os.mkfifo(child)
    script = f"sleep 60 & echo $! >{child}; wait"
    be.program = PeerProgram(shell(script), tmp_path / "s", tmp_path / "log")
    before = set(psutil.Process().children())
    started = []

    def refuse() -> socket.socket:
        started.append(psutil.Process(int(child.read_text())))
        raise ConnectionRefusedError

    with theirs, pytest.raises(ConnectionRefusedError):
        _answers(be, theirs, refuse)
    assert set(psutil.Process().children()) <= before
    wait_until(lambda: not running(started), "they have ended")
    be.close()


def test_a_suite_that_is_killed_takes_the_second_program_along() -> None:
    """The kernel ends it."""
    script = (
        "import time; from vhost_user_conformance.back_end.cases.program import _started\n"
        "with _started(['sleep', '60'], (), stdin=-3, stdout=-3) as program:\n"
        " print(program.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as suite:
        assert suite.stdout is not None
        try:
            second = psutil.Process(int(suite.stdout.readline()))
        finally:
            suite.kill()
    wait_until(lambda: not running([second]), "it ends")
