"""`emu tap`: round trips with the tap between the front-end and the back-end, and without it.

And requests of a disk with and without it: they lead through shared memory, not through the tap.
"""

from __future__ import annotations

import contextlib
import os
import socket
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from bench.bench_disk import Disk
from tests.timeouts import TIMEOUT
from tests.waiting import wait_until
from vhost_user.channel import connect
from vhost_user.codec import NEED_REPLY, VERSION, encode
from vhost_user.features import VHOST_USER_F_PROTOCOL_FEATURES, ProtocolFeature
from vhost_user.messages import FrontendRequest
from vhost_user.payloads import U64, MemoryRegion, MemTable
from vhost_user.unix_socket import is_listening
from vhost_user.virtio.blk import VIRTIO_BLK_T_IN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from bench.figures import Figure

#: Requests of one way in a round, each sent after the reply to the one before.
REQUESTS = 64
#: Rounds of each way, in alternation: what else the host does meets both.
ROUNDS = 50
#: Seconds between two rounds. The tap decodes what it has forwarded when there is nothing to
#: forward: after the stop of a VM, too, and not between its messages.
PAUSE = 0.05
LOGS: dict[str, tuple[str, ...]] = {"tap": (), "tap-json": ("--json", "{folder}/log.json")}
_MEMORY = 1 << 20
_BASE = 1 << 32


class Kind(NamedTuple):
    """A request with a reply: its message, and the descriptors."""

    message: bytes
    fds: tuple[int, ...] = ()

    def ask(self, sock: socket.socket) -> None:
        """Send it, and receive the reply."""
        socket.send_fds(sock, [self.message], self.fds)
        assert sock.recv(64)


def _prepared(sock: socket.socket) -> dict[str, Kind]:
    """Have each message acknowledged, as QEMU has; returns the kinds of requests."""
    features = {
        FrontendRequest.SET_FEATURES: 1 << VHOST_USER_F_PROTOCOL_FEATURES,
        FrontendRequest.SET_PROTOCOL_FEATURES: ProtocolFeature.REPLY_ACK,
    }
    for request, value in features.items():
        sock.sendall(encode(request, VERSION, U64(value)))
    memory = os.memfd_create("memory")
    os.truncate(memory, _MEMORY)
    table = MemTable((MemoryRegion(0, _MEMORY, _BASE, 0),))
    return {
        "GET_FEATURES": Kind(encode(FrontendRequest.GET_FEATURES, VERSION, None)),
        "SET_MEM_TABLE": Kind(
            encode(FrontendRequest.SET_MEM_TABLE, VERSION | NEED_REPLY, table), (memory,)
        ),
    }


class Way(NamedTuple):
    """A connection to a back-end, and nanoseconds of the requests on it."""

    sock: socket.socket
    kinds: dict[str, Kind]
    times: list[int]

    def run(self, kind: str) -> None:
        """Some requests, one after the other."""
        request = self.kinds[kind]
        for _ in range(REQUESTS):
            begin = time.perf_counter_ns()
            request.ask(self.sock)
            self.times.append(time.perf_counter_ns() - begin)


@pytest.fixture
def way(tmp_path: Path) -> Iterator[Callable[[str], Way]]:
    """Makes the ways, each to a back-end of its own."""
    with contextlib.ExitStack() as stack:

        def start(path: str, *words: str) -> None:
            program = subprocess.Popen([sys.executable, "-m", *words])
            stack.callback(program.wait)
            stack.callback(program.terminate)
            wait_until(lambda: is_listening(path), f"{path} listens")

        def make(name: str) -> Way:
            path, image = str(tmp_path / f"{name}.sock"), tmp_path / f"{name}.img"
            image.write_bytes(bytes(_MEMORY))
            start(path, "backends.blk", "--socket-path", path, "--blk-file", str(image))
            if name in LOGS:
                back_end, path = path, f"{path}.tap"
                logs = [word.format(folder=tmp_path) for word in LOGS[name]]
                pair = ("--listen", path, "--connect", back_end)
                start(path, "emu.cli", "tap", "-q", *pair, *logs)
            sock = stack.enter_context(connect(path, name, TIMEOUT))
            kinds = _prepared(sock)
            for kind in kinds.values():
                for fd in kind.fds:
                    stack.callback(os.close, fd)
            return Way(sock, kinds, [])

        yield make


@pytest.mark.parametrize("kind", ["GET_FEATURES", "SET_MEM_TABLE"])
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.smoke][: name == "tap"]) for name in LOGS]
)
def test_round_trip(
    benchmark: Any, figure: Figure, way: Callable[[str], Way], name: str, kind: str
) -> None:
    """In lock-step, with the tap and without it; the note is what the median request takes more.

    GET_FEATURES has no work, and SET_MEM_TABLE has a descriptor.
    """
    ways = [way("direct"), way(name)]

    def run() -> None:
        ways.reverse()
        for each in ways:
            each.run(kind)

    direct, tapped = (each.times for each in ways)
    figure.group, figure.unit, figure.units = "tap", "request", 2 * REQUESTS
    benchmark.pedantic(run, setup=lambda: time.sleep(PAUSE), rounds=ROUNDS, warmup_rounds=1)
    # Without the warm-up; a case that is run once, untimed, has nothing else.
    medians = [statistics.median(times[REQUESTS:] or times) / 1000 for times in (direct, tapped)]
    figure.info.update(direct_us=medians[0], more_us=medians[1] - medians[0])
    figure.notes["without a tap"] = f"{medians[0]:.0f} us"
    figure.notes["more with it"] = f"{medians[1] - medians[0]:.0f} us"


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
    figure.info.update(ratio=ratio)
    figure.notes["with a tap / without"] = f"{ratio:.2f}"
