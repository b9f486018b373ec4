"""The back-end programs, as a user starts them."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.backends.rig import Rig
from tests.timeouts import PROGRAM_TIMEOUT
from vhost_user.frontend import FrontendConnection

if TYPE_CHECKING:
    from collections.abc import Iterator

BLK = [sys.executable, "-m", "backends.blk"]
NET = [sys.executable, "-m", "backends.net"]
SERVE = [sys.executable, "-m", "backends.serve"]
RNG = [sys.executable, "-m", "backends.rng"]


def fails(arguments: list[str], *, status: int | None = None) -> str:
    """The one line that the program ends with."""
    done = subprocess.run(
        arguments, capture_output=True, text=True, timeout=PROGRAM_TIMEOUT, check=False
    )
    assert done.returncode == status if status else done.returncode > 0
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


@contextmanager
def rig_at(path: str, rings: int) -> Iterator[Rig]:
    rig = Rig(FrontendConnection.connect(path, name=path), rings)
    try:
        yield rig
    finally:
        rig.close()
