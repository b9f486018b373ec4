"""The programs that serve the devices."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

from pathlib import Path

import pytest

from tests.backends.contract.given import MakeRig, stop_all
from tests.backends.rig import RING_SIZE
from tests.backends.served import Kind, program
from tests.timeouts import TIMEOUT
from vhost_user.frontend import FrontendConnection
from vhost_user.payloads import VringState


@pytest.mark.parametrize("control", ["per-device", "shared"])
def test_program_serves(kind: Kind, tmp_path: Path, make_rig: MakeRig, control: str) -> None:
    path = str(tmp_path / "s.sock")
    with program(kind.arguments(tmp_path), "--socket-path", path, "--control", control) as process:
        for _ in range(2):
            rig = make_rig(FrontendConnection.connect(path, name="program"))
            rig.start()
            kind.prepare(rig)
            for number in range(5):
                kind.work(rig, number)
            replies = stop_all(rig)
            assert replies[kind.ring].payload == VringState(kind.ring, 5)
            rig.connection.close()
        process.terminate()
        assert process.wait(TIMEOUT) == 0
    assert not Path(path).exists()


def test_program_ends_at_sigterm_under_load(kind: Kind, tmp_path: Path, make_rig: MakeRig) -> None:
    path = str(tmp_path / "s.sock")
    with program(kind.arguments(tmp_path), "--socket-path", path) as process:
        rig = make_rig(FrontendConnection.connect(path, name="program"))
        rig.start()
        kind.prepare(rig)
        for number in range(RING_SIZE // 8):
            kind.submit(rig, number)
        process.terminate()
        assert process.wait(TIMEOUT) == 0
    assert not Path(path).exists()
