"""Each harness holds on its committed inputs, and states its invariant."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.fuzz.corpus import names, seeds
from tests.timeouts import PROGRAM_TIMEOUT

#: A process of its own: harnesses keep devices, files and patched classes as long as they live.
_REPLAY = r"""
import importlib, pathlib, sys
harness = importlib.import_module(f"tests.fuzz.harnesses.{sys.argv[1]}")
assert harness.__doc__.split("\n\n")[1].startswith("Invariant: ")
inputs = sorted(pathlib.Path(sys.argv[2]).iterdir())
for path in inputs:
    try:
        harness.one_input(path.read_bytes())
    except BaseException as error:
        raise SystemExit(f"{path}: {type(error).__name__}: {error}") from error
print(len(inputs))
"""


@pytest.mark.parametrize("name", names())
def test_the_invariant_holds_on_the_corpus(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _REPLAY, name, str(seeds(name))],
        capture_output=True,
        text=True,
        timeout=PROGRAM_TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 4
