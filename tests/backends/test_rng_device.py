"""The entropy device: what a request gets, and what it may not be; its source."""
# ruff: noqa: D103 - the name of a test, or of a part of one, says what it is

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from backends.limits import RNG_REQUEST_BYTES
from backends.loop import Loop
from backends.rng_device import RandomSource, RngDevice, SourceError
from backends.server import DeviceServer, listen
from tests.backends.contract.given import NATIVE
from tests.backends.rig import Rig
from tests.timeouts import PROGRAM_TIMEOUT, TIMEOUT
from vhost_user.frontend import FrontendConnection
from vhost_user.readiness import readable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    MakeRig = Callable[[str], Rig]


@pytest.fixture
def make_rig(tmp_path: Path) -> Iterator[MakeRig]:
    """A front-end with one started ring, on a device that reads this source."""
    undo: list[Callable[[], object]] = []

    def make(path: str) -> Rig:
        source = RandomSource(path)
        loop = Loop("rng")
        socket = str(tmp_path / "rng.sock")
        server = DeviceServer(RngDevice("rng", loop, source), listen(socket), NATIVE)
        loop.start()
        rig = Rig(FrontendConnection.connect(socket, name="rng"), rings=1)
        undo.extend((source.close, loop.close, server.close, loop.stop, rig.close))
        rig.start()
        return rig

    yield make
    for function in reversed(undo):
        function()


def _fill(rig: Rig, *sizes: int) -> tuple[int, list[bytes]]:
    """One request with buffers of these sizes: bytes written, and the buffers."""
    buffers = [rig.alloc(size, rig.high) for size in sizes]
    rig.rings[0].add([], [(gpa, size) for (gpa, _), size in zip(buffers, sizes, strict=True)])
    done = rig.rings[0].wait()
    return done.written, [bytes(data) for _, data in buffers]


@pytest.mark.parametrize("sizes", [(1,), (64,), (7, 1, 4096), (100,) * 8])
def test_all_buffers_are_filled_in_order(
    make_rig: MakeRig, tmp_path: Path, sizes: tuple[int, ...]
) -> None:
    file = tmp_path / "source"
    file.write_bytes(os.urandom(8192))
    written, got = _fill(make_rig(str(file)), *sizes)
    assert written == sum(sizes)
    assert b"".join(got) == file.read_bytes()[: sum(sizes)]


def test_a_request_gets_a_bounded_number_of_bytes(make_rig: MakeRig) -> None:
    written, _ = _fill(make_rig("/dev/urandom"), RNG_REQUEST_BYTES, 4096)
    assert written == RNG_REQUEST_BYTES


def test_a_file_is_read_again_when_it_ends(make_rig: MakeRig, tmp_path: Path) -> None:
    file = tmp_path / "source"
    file.write_bytes(b"0123456789")
    rig = make_rig(str(file))
    got = b""
    while len(got) < 25:
        written, (data,) = _fill(rig, 8)
        got += data[:written]
    assert got.startswith(b"0123456789" * 2)


@pytest.mark.parametrize("readable_part", [True, False], ids=["readable", "nothing to write"])
def test_a_request_that_is_not_for_the_device_to_write_ends_its_ring(
    make_rig: MakeRig, readable_part: bool
) -> None:
    rig = make_rig("/dev/urandom")
    gpa, _ = rig.alloc(64)
    other, _ = rig.alloc(64)
    rig.rings[0].add([(gpa, 64)], [(other, 64)] if readable_part else [])
    rig.rings[0].kick()
    assert readable([rig.rings[0].err_fd], TIMEOUT)


@pytest.mark.parametrize("kind", ["missing", "empty", "directory", "fifo"])
def test_what_is_not_a_source_is_one_line(tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    if kind == "empty":
        path.touch()
    elif kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    with pytest.raises(SourceError, match=str(path)):
        RandomSource(str(path))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "backends.rng", "--rng-source", str(path)),
            *("--socket-path", str(tmp_path / "s.sock")),
        ],
        capture_output=True,
        text=True,
        timeout=PROGRAM_TIMEOUT,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert f"--rng-source {path}" in done.stderr
