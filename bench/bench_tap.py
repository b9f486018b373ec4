"""`emu tap`: a round trip with the tap between the front-end and the back-end, and without it.

And requests of a disk with and without it: they lead through shared memory, not through the tap.
"""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from bench.bench_disk import Disk
from vhost_user.channel import connect
from vhost_user.codec import VERSION, encode
from vhost_user.messages import FrontendRequest
from vhost_user.virtio.blk import VIRTIO_BLK_T_IN

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bench.figures import Figure

TIMEOUT = 30.0
#: Requests of a round, each sent after the reply to the one before.
REQUESTS = 64
LOGS = {"direct": None, "tap": [], "tap-json": ["--json", "{folder}/log.json"]}


class Sockets(NamedTuple):
    """The back-end's socket and those of two taps before it."""

    paths: dict[str, str]


@pytest.fixture(scope="module")
def sockets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sockets]:
    """A disk's back-end, and the taps."""
    folder: Path = tmp_path_factory.mktemp("tap")
    with (folder / "disk.img").open("wb") as file:
        file.truncate(1 << 20)
    paths = {name: str(folder / f"{name}.sock") for name in LOGS}
    image = str(folder / "disk.img")
    commands = [["backends.blk", "--socket-path", paths["direct"], "--blk-file", image]]
    for name, logs in LOGS.items():
        if logs is not None:
            pair = ["--listen", paths[name], "--connect", paths["direct"]]
            options = [word.format(folder=folder) for word in logs]
            commands.append(["emu.cli", "tap", "-q", *pair, *options])
    with contextlib.ExitStack() as stack:
        for words in commands:
            program = subprocess.Popen([sys.executable, "-m", *words])
            stack.callback(program.wait)
            stack.callback(program.terminate)
        yield Sockets(paths)


@pytest.mark.parametrize(
    "way",
    [pytest.param(way, marks=[pytest.mark.smoke] if way == "tap" else []) for way in LOGS],
)
def test_round_trip(benchmark: Any, figure: Figure, sockets: Sockets, way: str) -> None:
    """GET_FEATURES in lock-step; the difference between the cases is what a tap adds."""
    message = encode(FrontendRequest.GET_FEATURES, VERSION, None)
    with connect(sockets.paths[way], way, TIMEOUT) as sock:

        def run() -> int:
            size = 0
            for _ in range(REQUESTS):
                sock.sendall(message)
                size += len(sock.recv(64))
            return size

        figure.group, figure.unit, figure.units = "tap", "request", REQUESTS
        assert benchmark(run) == REQUESTS * 20


#: Rounds of each way, in alternation: what else the host does meets both.
ROUNDS = 50


def test_data_path(benchmark: Any, figure: Figure, tmp_path: Path) -> None:
    """Reads of a disk, one in flight; the note is what the median with a tap is of the other."""
    times: dict[bool, list[float]] = {False: [], True: []}
    with contextlib.ExitStack() as stack:
        disks = {}
        for tapped in times:
            folder = tmp_path / str(tapped)
            folder.mkdir()
            (folder / "image").write_bytes(bytes(1 << 20))
            disks[tapped] = Disk(stack, folder, str(folder / "image"), tapped=tapped)

        def run() -> None:
            for tapped, disk in disks.items():
                begin = time.perf_counter()
                disk.run(VIRTIO_BLK_T_IN)
                times[tapped].append(time.perf_counter() - begin)

        figure.group, figure.unit, figure.units = "tap: data path", "request", 2 * REQUESTS
        benchmark.pedantic(run, rounds=ROUNDS, warmup_rounds=1)
    ratio = statistics.median(times[True]) / statistics.median(times[False])
    figure.notes["with a tap / without"] = f"{ratio:.2f}"
