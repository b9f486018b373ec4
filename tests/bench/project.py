"""A small project with benchmarks of its own, for the tests of `make bench-compare`."""

from __future__ import annotations

import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.timeouts import PROGRAM_TIMEOUT, TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

GOOD = "def test_one(benchmark):\n    benchmark(int)\n"
BOTH = GOOD + "\ndef test_two(benchmark):\n    benchmark(int)\n"
BROKEN = "import no_such_module\n"
#: Of its two benchmarks one has a time.
HALF = GOOD + "\ndef test_two(benchmark):\n    benchmark(int)\n    assert not 'this one'\n"
#: Its interpreter is ours. A worker of pytest-xdist says so in its environment, where
#: pytest-benchmark measures nothing then.
_PYTHON = f"""#!/bin/sh
unset PYTEST_XDIST_WORKER
export PYTEST_DISABLE_PLUGIN_AUTOLOAD=1
exec '{sys.executable}' "$@"
"""
_MAKEFILE = """
.venv/.installed:
\t@mkdir -p .venv/bin
\t@install -m 755 python.sh .venv/bin/python
\t@touch $@
"""
_SETTINGS = """
[pytest]
python_files = bench_*.py
addopts =
    -q -p no:cacheprovider -p pytest_benchmark.plugin
    --benchmark-max-time=0.001 --benchmark-min-rounds=1
"""


def write(directory: Path, files: Mapping[str, str], makefile: str = _MAKEFILE) -> Path:
    """Write the project; other benchmark files are removed.

    Args:
        directory: is made.
        files: contents of ``bench/bench_NAME.py`` by name.
        makefile: installs it.
    """
    shutil.rmtree(directory / "bench", ignore_errors=True)
    (directory / "bench").mkdir(parents=True)
    (directory / "Makefile").write_text(makefile)
    (directory / "python.sh").write_text(_PYTHON)
    (directory / "bench/pytest.ini").write_text(_SETTINGS)
    for name, contents in files.items():
        (directory / f"bench/bench_{name}.py").write_text(contents)
    return directory


def installed(directory: Path, files: Mapping[str, str]) -> Path:
    """Write the project, and make its virtual environment."""
    write(directory, files)
    subprocess.run(
        ["make", "-s", ".venv/.installed"], cwd=directory, check=True, timeout=PROGRAM_TIMEOUT
    )
    return directory


def commit(directory: Path) -> str:
    """Commit all files of the project; the id of the commit. Without git the test is skipped."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    if not (directory / ".git").exists():
        _git(directory, "init", "-q")
    _git(directory, "add", "Makefile", "python.sh", "bench")
    _git(directory, *("-c", "user.name=a", "-c", "user.email=b"), "commit", "-q", "-m", "c")
    return _git(directory, "rev-parse", "HEAD")


def _git(directory: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(directory), *arguments],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=TIMEOUT,
    )
    return done.stdout.strip()
