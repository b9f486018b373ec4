"""Tests that need SIGINT pass where the shell ignores it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from tests.timeouts import PROGRAM_TIMEOUT


def test_a_session_in_the_background_of_a_shell_gets_interrupts() -> None:
    """As with ``pytest &`` in a script: SIGINT is ignored there at first."""
    code = (
        "import signal, sys, pytest\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', sys.argv[1]]))\n"
    )
    test = f"{Path(__file__)}::test_programs_get_interrupts"
    done = subprocess.run(
        [sys.executable, "-c", code, test], timeout=PROGRAM_TIMEOUT, check=False, text=True
    )
    assert done.returncode == 0


def test_programs_get_interrupts() -> None:
    """SIGINT has its usual effect on a program that a test starts."""
    code = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
    assert signal.getsignal(signal.SIGINT) is not signal.SIG_IGN
