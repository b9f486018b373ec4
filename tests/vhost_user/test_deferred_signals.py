"""Signals that wait until the end of a block, in a process of one thread."""
# ruff: noqa: D103 - the names describe them

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.timeouts import PROGRAM_TIMEOUT
from vhost_user.deferred_signals import SIGNALS

PROGRAM = """
import os, signal, sys
from vhost_user.deferred_signals import deferred_signals

signum = int(sys.argv[1])
if signum != signal.SIGINT:
    def handle(*_):
        raise KeyboardInterrupt
    signal.signal(signum, handle)
done = False
try:
    with deferred_signals():
        os.kill(os.getpid(), signum)
        done = True
except KeyboardInterrupt:
    print("interrupted", done, signal.pthread_sigmask(signal.SIG_BLOCK, ()))
"""


@pytest.mark.parametrize("signum", SIGNALS, ids=lambda signum: signum.name)
def test_a_signal_waits_for_the_end_of_the_block(signum: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(int(signum))],
        capture_output=True,
        text=True,
        timeout=PROGRAM_TIMEOUT,
        check=True,
    )
    assert done.stdout == "interrupted True set()\n"
