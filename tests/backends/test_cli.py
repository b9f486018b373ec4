"""The entry points of the back-end programs: nothing is opened before the standard streams are."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from tests.backends.test_console_script import in_a_shell

if TYPE_CHECKING:
    import subprocess

PROGRAMS = ("blk", "net", "rng", "serve")


def _run(text: str, redirection: str) -> subprocess.CompletedProcess[str]:
    return in_a_shell([sys.executable, "-c", text, "--version"], redirection)


def test_the_programs_are_not_imported_with_the_entry_points() -> None:
    # A sitecustomize, as of `make sanitize`, may import more before.
    text = (
        "import sys; old = {*sys.modules}; from backends import cli; print(*{*sys.modules} - old)"
    )
    loaded = _run(text, "").stdout.split()
    assert "backends.cli" in loaded
    assert not {"ctypes", "click", "cffi", "backends.program"} & set(loaded)


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_library_that_keeps_a_descriptor_does_not_hide_a_closed_stream(program: str) -> None:
    """As libffi 3.4.7 does, which ctypes loads: here it is the module of the program itself."""
    text = f"""
import os
from backends import cli
imported = cli.import_module
def import_and_open(name):
    os.open("/dev/null", os.O_RDONLY)
    return imported(name)
cli.import_module = import_and_open
cli.{program}()
"""
    done = _run(text, ">&-")
    name = f"vhost-emu-{program}"
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"{name}: standard output is closed: nothing can be printed\n"
    done = _run(text, "")
    assert (done.returncode, done.stderr) == (0, "")
    assert name in done.stdout
