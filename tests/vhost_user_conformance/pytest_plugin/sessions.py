"""Sessions of pytest with the plugin, as users run them, and back-ends to test."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.timeouts import TIMEOUT
from vhost_user_conformance.peer.program import connect

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pytest

PYTHON = shlex.quote(sys.executable)
NIC = f"{PYTHON} -m backends.net --socket-path {{socket}} --num-queues 4"
#: Our NIC, with bases that are wrong, and one that ends where a ring that runs is stopped.
_PATCHED = (
    "import os; from backends.ring import Ring; stop = Ring.stop; "
    "Ring.stop = lambda ring: {}; from backends.net import main; main()"
)
WRONG_BASE = _PATCHED.format("stop(ring) ^ 1")
DIES = _PATCHED.format("os._exit(3) if ring.started else stop(ring)")
#: A suite of the user's own.
OWN = """
import pytest
from vhost_user_conformance.target import Target

@pytest.fixture(scope="session")
def vhost_user_peer():
    return Target(command={command!r}, device="net")

@pytest.mark.vhost_user_cases("rings", "VU-B-0101")
def test_mine(vhost_user_case):
    vhost_user_case.check()

def test_another():
    pass
"""


def patched(program: str) -> str:
    """The command of our NIC with a mistake."""
    return f"{PYTHON} -c {shlex.quote(program)} --socket-path {{socket}} --num-queues 4"


def listening(command: str, path: Path) -> Iterator[Path]:
    """The socket of a back-end that runs until the end of the test."""
    argv = shlex.split(command.replace("{socket}", str(path)))
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as program:
        try:
            connect(path, timeout=TIMEOUT, gone=lambda: "").close()
            yield path
        finally:
            program.terminate()


def run(pytester: pytest.Pytester, *arguments: str | Path) -> pytest.RunResult:
    """Run pytest as a subprocess in its own directory."""
    return pytester.runpytest_subprocess("--strict-markers", "--benchmark-disable", *arguments)


def ids(result: pytest.RunResult) -> set[str]:
    """The ids of cases in its output."""
    return set(re.findall(r"\[(VU-[BF]-\d{4})\]", result.stdout.str()))
