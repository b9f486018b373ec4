"""A session of tests that leaves something behind, or hangs, says so and goes on."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests import slow

pytest_plugins = ("pytester",)

ROOT = Path(__file__).parents[1]
#: A directory and a process that stay, a test and a teardown that hang, and tests that are right.
SESSION = """
import subprocess, sys, tempfile, threading, time
import pytest

def test_leaves_a_directory():
    tempfile.mkdtemp(prefix="forgotten-")

def test_leaves_a_process():
    subprocess.Popen(["sleep", "1000"])

@pytest.mark.timeout(1)
def test_hangs():
    threading.Event().wait()

@pytest.fixture
def hangs():
    yield
    threading.Event().wait()

@pytest.mark.timeout(1)
def test_hangs_at_its_end(hangs):
    pass

def test_signals_have_their_effect():
    code = "import signal; print([int(signal.getsignal(n) is signal.SIG_IGN) for n in (1, 2, 3)])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[0, 0, 0]\\n"

@pytest.mark.parametrize("n", range(5))
def test_is_right(n, tmp_path):
    (tmp_path / "file").touch()
"""


@pytest.fixture
def session(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A directory with such tests, and with this suite's conftest.py."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("TMPDIR", str(pytester.path))
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    pytester.makeconftest("from tests.conftest import *")
    pytester.makepyfile(test_session=SESSION)
    return pytester


def run(session: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    """Pytest, as a program of its own."""
    options = ("-p", "no:vhost-user", "-p", "no:benchmark", "--timeout=60")
    return session.runpytest_subprocess(*options, "--timeout-method=signal", *arguments)


@pytest.mark.slow
def test_a_session_that_leaves_nothing_passes(session: pytest.Pytester) -> None:
    """And its directory is removed."""
    result = run(session, "-k", "right", "-n2")
    result.assert_outcomes(passed=5)
    assert result.ret == 0
    assert "left behind" not in result.stdout.str()
    assert not list(session.path.glob("vhost-test-*"))


@pytest.mark.parametrize("workers", slow.all_but({"-n0"}, ["-n0", "-n2"]))
def test_what_is_left_behind_fails_the_session_and_is_named(
    session: pytest.Pytester, workers: str
) -> None:
    """With the test that has left it."""
    result = run(session, "-k", "leaves or right", workers)
    result.assert_outcomes(passed=7)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    lines = result.stdout.lines
    (directory,) = [line for line in lines if "/forgotten-" in line]
    (process,) = [line for line in lines if "sleep 1000" in line]
    assert "::test_leaves_a_directory)" in directory
    assert "::test_leaves_a_process)" in process
    os.kill(int(process.split()[1].rstrip(":")), 9)


@pytest.mark.slow  # a nested session that replaces a worker may take minutes
def test_a_test_that_hangs_fails_alone(session: pytest.Pytester) -> None:
    """So does one whose teardown hangs: its worker is replaced."""
    result = run(session, "-k", "hangs or right", "-n2")
    outcomes = result.parseoutcomes()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    text = result.stdout.str()
    assert "test_hangs - Failed: Timeout (>1.0s)" in text
    assert "crashed while running" in text
    assert outcomes["failed"] == 2
    assert outcomes["passed"] >= 5


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["-n0", "-n2"])
def test_signals_that_a_shell_ignores_have_their_effect(
    session: pytest.Pytester, workers: str
) -> None:
    """As for a job in the background of a script, and under nohup."""
    signums = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)
    before = [signal.signal(signum, signal.SIG_IGN) for signum in signums]
    try:
        result = run(session, "-k", "signals", workers)
    finally:
        for signum, handler in zip(signums, before, strict=True):
            signal.signal(signum, handler)
    result.assert_outcomes(passed=1)
