"""Signals are deferred while a program is started, and raised afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from vhost_user_conformance.peer.spawn import (
    ENDING,
    end_with_parent,
    signal_session,
    signals_deferred,
)


@pytest.mark.parametrize("signum", ENDING)
def test_a_signal_is_raised_at_the_end(signum: signal.Signals) -> None:
    """Not within the block."""
    steps = []

    def strike(_signum: int, _frame: object) -> None:
        steps.append("handled")

    before = signal.signal(signum, strike)
    try:
        with signals_deferred():
            signal.raise_signal(signum)
            steps.append("end of the block")
        assert steps == ["end of the block", "handled"]
        assert signal.getsignal(signum) is strike
    finally:
        signal.signal(signum, before)


def test_without_a_signal_the_handlers_are_as_before() -> None:
    """Each of them."""
    before = [signal.getsignal(each) for each in ENDING]
    with signals_deferred():
        pass
    assert [signal.getsignal(each) for each in ENDING] == before


def test_the_kernel_ends_a_child_whose_parent_is_killed() -> None:
    """The child gets SIGTERM: its end of the pipe closes."""
    child = "import signal; print('ready', flush=True); signal.pause()"
    parent = (
        "import subprocess, sys\n"
        "from vhost_user_conformance.peer.spawn import end_with_parent\n"
        f"subprocess.Popen([sys.executable, '-c', {child!r}], preexec_fn=end_with_parent).wait()\n"
    )
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.kill()
        assert process.stdout.read() == b""


def test_end_with_parent_returns() -> None:
    """It has no effect on a child whose parent lives."""
    done = subprocess.run([sys.executable, "-c", ""], preexec_fn=end_with_parent, check=False)
    assert done.returncode == 0


def test_a_session_of_zombies_does_not_run() -> None:
    """A program that forks may leave them to a parent that waits for none of them."""
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as program:
        assert signal_session(program.pid, 0)
        program.kill()
        # It has ended, and is not waited for.
        os.waitid(os.P_PID, program.pid, os.WEXITED | os.WNOWAIT)
        os.killpg(program.pid, 0)  # the kernel still knows the session
        assert not signal_session(program.pid, 0)
    assert not signal_session(program.pid, 0)
