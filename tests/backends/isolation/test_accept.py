"""A program without descriptors left: a front-end that comes then waits until there are some."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import itertools
import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.backends.isolation import pair
from tests.backends.rig import Rig
from tests.backends.served import Rng, program
from tests.timeouts import TIMEOUT
from vhost_user.frontend import FrontendConnection

if TYPE_CHECKING:
    import subprocess


def _line(process: subprocess.Popen[bytes]) -> str:
    assert process.stderr is not None
    return process.stderr.readline().decode()


def test_a_front_end_waits_for_descriptors(tmp_path: Path) -> None:
    kind = Rng()
    with program([sys.executable, "-m", *pair.command(kind, tmp_path)]) as process:
        other = pair.connect(str(tmp_path / f"{pair.NEIGHBOUR}.sock"), kind).start()
        kind.work(other)
        soft, hard = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
        held = {int(each.name) for each in Path(f"/proc/{process.pid}/fd").iterdir()}
        lowest = next(number for number in itertools.count() if number not in held)
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (lowest, hard))
        path = str(tmp_path / f"{pair.VICTIM}.sock")
        connection = FrontendConnection.connect(path, name="late", timeout=TIMEOUT)
        assert "victim: a front-end waits: it cannot be accepted: Too many open" in _line(process)
        for number in range(1, 20):
            kind.work(other, number)
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (soft, hard))
        late = Rig(connection, kind.rings).start()
        kind.work(late)
        late.close()
        other.close()
