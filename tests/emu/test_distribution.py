"""A distribution with the same import names is an error that names it."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from emu import distribution
from tests.timeouts import PROGRAM_TIMEOUT

if TYPE_CHECKING:
    from pathlib import Path


def test_this_installation_has_no_conflict() -> None:
    """The other tests depend on it."""
    assert distribution.conflict() == ""


@pytest.mark.parametrize("name", distribution.PACKAGES)
def test_a_distribution_of_the_same_name_is_refused(name: str, tmp_path: Path) -> None:
    """Before any command is run."""
    info = tmp_path / f"{name}-3.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 3.1\n")
    done = subprocess.run(
        [sys.executable, "-m", "emu", "doctor"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=PROGRAM_TIMEOUT,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"emu: the distribution {name} 3.1 is installed beside vhost-emu, and both have a package "
        f"{name}: install vhost-emu in an environment of its own\n"
    )
