"""Requests of disks and frames of NICs: our back-ends beside those of other projects.

All programs of a disk serve the same image, which is in the page cache, and have the same driver
(`bench.traffic`): the project's front-end, whose rings a C function fills and reaps. They are
measured in turn, many times; the ratios are those of the medians. Where another program is not
installed, its cases are skipped.
"""

from __future__ import annotations

import os
import signal
import statistics
import sys
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from bench.figures import DAEMON, IO_URING, OURS
from bench.floor_program import NoCompilerError
from bench.traffic import BLOCK, DiskDriver, NicDriver, library, stamp
from tests.peers.programs import Running, missing, pmd_back_end, prefix, storage_daemon
from tests.peers.table import PMD_BACK_END, STORAGE_DAEMON
from tests.timeouts import PROGRAM_TIMEOUT
from tests.waiting import wait_until
from vhost_user.unix_socket import is_listening

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from bench.figures import Figure

IMAGE_BYTES = 64 << 20
RINGS = 4
ROUNDS = 9
#: The storage daemon as its manual starts it; and with the options that make it fastest here: a
#: thread for the export, which polls, and io_uring.
IO_URING_OPTIONS = ("aio=io_uring", "iothread=export")
#: Frames on their way at once: fewer than a ring has descriptors, so that none is dropped.
WINDOW = 192
FRAMES = 100_000


@pytest.fixture(scope="module", autouse=True)
def _compiled() -> None:
    try:
        library()
    except NoCompilerError as error:
        pytest.skip(f"the driver cannot be built: {error}")


class Disks:
    """Programs that serve the same image, and a driver of each.

    Args:
        stack: ends them.
        folder: for the image and the sockets.
    """

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self._stack = stack
        self._folder = folder
        self._image = folder / "disk.img"
        stamp(self._image, IMAGE_BYTES)
        self.drivers: dict[str, DiskDriver] = {}

    def start(self, name: str) -> DiskDriver:
        """The driver of a program, which is started for the first use."""
        if name not in self.drivers:
            path = self._folder / f"{name}.sock"
            running = Running(self._command(name, path), self._folder / f"{name}.log")
            self._stack.callback(_end, running)
            _await(running, path)
            driver = DiskDriver(str(path), RINGS, IMAGE_BYTES)
            self._stack.callback(driver.close)
            self.drivers[name] = driver
        return self.drivers[name]

    def _command(self, name: str, path: Path) -> list[str]:
        if name == OURS:
            argv = [sys.executable, "-m", "backends.blk", "--blk-file", str(self._image)]
            return [*argv, "--socket-path", str(path), "--num-queues", str(RINGS)]
        argv = storage_daemon(self._image, path, queues=RINGS)
        if name == IO_URING:
            aio, iothread = IO_URING_OPTIONS
            argv = [f"{word},{aio}" if word.startswith("driver=file") else word for word in argv]
            argv[-1] += f",{iothread}"
            argv[1:1] = ["--object", "iothread,id=export"]
        return argv


def _end(running: Running) -> None:
    """The storage daemon does not always end at SIGTERM with a thread for its export."""
    running.process.kill()
    running.process.wait(PROGRAM_TIMEOUT)


def _await(running: Running, path: Path) -> None:
    running.await_socket(path)
    wait_until(lambda: is_listening(str(path)), f"{path} listens")


@pytest.fixture(scope="module")
def disks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disks]:
    """The programs; none is started yet."""
    with ExitStack() as stack:
        yield Disks(stack, tmp_path_factory.mktemp("disks"))


class Series:
    """The times of several programs for the same work, measured in turn."""

    def __init__(self, works: dict[str, Callable[[], float]]) -> None:
        self._works = works
        self._times: dict[str, list[float]] = {name: [] for name in works}

    def measure(self) -> None:
        """Each program once."""
        for name, work in self._works.items():
            self._times[name].append(work())

    def median(self, name: str) -> float:
        """Seconds of a program."""
        return statistics.median(self._times[name])

    def ratio(self, name: str) -> float:
        """How many times as fast as a program ours is."""
        return self.median(name) / self.median(OURS)


def _requests(depth: int, rings: int, block: int) -> int:
    """So many that a program takes some ten milliseconds."""
    return (1000 if depth * rings == 1 else 4000) * BLOCK // max(BLOCK, block // 4)


def _measure(benchmark: Any, series: Series) -> None:
    benchmark.pedantic(series.measure, rounds=ROUNDS, warmup_rounds=1)


@pytest.mark.parametrize("kind", ["read", pytest.param("write", marks=[pytest.mark.smoke])])
def test_disk_alone(benchmark: Any, figure: Figure, disks: Disks, kind: str) -> None:
    """Our program without another one beside it."""
    figure.unit, figure.units = "request", 1000
    driver = disks.start(OURS)
    benchmark.pedantic(
        lambda: driver.run(kind, rings=2, depth=32, block=BLOCK, requests=1000),
        rounds=ROUNDS,
        warmup_rounds=1,
    )


@pytest.mark.parametrize("depth", [1, 32, 128])
@pytest.mark.parametrize("rings", [1, 4])
@pytest.mark.parametrize("block", [4 << 10, 64 << 10], ids=["4k", "64k"])
@pytest.mark.parametrize("kind", ["read", "write"])
def test_disk(
    benchmark: Any, figure: Figure, disks: Disks, kind: str, block: int, rings: int, depth: int
) -> None:
    """``depth`` requests in flight on each ring, at random places."""
    if reason := missing(STORAGE_DAEMON):
        pytest.skip(reason)
    benchmark.group = f"data path: {kind}s of a disk, {block >> 10} KiB"
    requests = _requests(depth, rings, block)

    def work(name: str) -> Callable[[], float]:
        driver = disks.start(name)
        return lambda: driver.run(kind, rings=rings, depth=depth, block=block, requests=requests)

    series = Series({name: work(name) for name in (OURS, DAEMON, IO_URING)})
    _measure(benchmark, series)
    each = {name: series.median(name) / requests * 1e6 for name in (OURS, DAEMON, IO_URING)}
    figure.info.update(us_per_request=each, ratio=series.ratio(DAEMON))
    figure.notes = {
        "ours": f"{each[OURS]:.2f} us",
        "daemon": f"{each[DAEMON]:.2f} us",
        "x": f"{series.ratio(DAEMON):.2f}",
        "io_uring": f"{each[IO_URING]:.2f} us",
        "x io_uring": f"{series.ratio(IO_URING):.2f}",
    }


@contextmanager
def on_processor(number: int) -> Iterator[None]:
    """This thread, and processes that it starts, run on one processor only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {number})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Nics:
    """Programs that send frames back, all on one processor, of which one runs at a time.

    Args:
        stack: ends them.
        folder: for the sockets.
        processor: the one for the programs. testpmd forwards on the second one that it has.
    """

    def __init__(self, stack: ExitStack, folder: Path, processor: int) -> None:
        self._running: dict[str, Running] = {}
        self.drivers: dict[str, NicDriver] = {}
        paths = {name: folder / f"{name}.sock" for name in (OURS, DAEMON)}
        ours = [sys.executable, "-m", "backends.net", "--socket-path", str(paths[OURS])]
        pmd = pmd_back_end(paths[DAEMON], queues=1, prefix=prefix(folder))
        for name, argv in {OURS: [*ours, "--num-queues", "2"], DAEMON: pmd}.items():
            if name == OURS:
                with on_processor(processor):
                    running = Running(argv, folder / f"{name}.log")
            else:
                running = Running(argv, folder / f"{name}.log")
            stack.callback(_end, running)
            _await(running, paths[name])
            self._running[name] = running
            self.drivers[name] = NicDriver(str(paths[name]))
            stack.callback(self.drivers[name].close)
        for name in self._running:
            self.pause(name)

    def pause(self, name: str) -> None:
        """Stop a program that polls."""
        self._running[name].process.send_signal(signal.SIGSTOP)

    def run(self, name: str, *, size: int, frames: int) -> float:
        """Seconds for so many frames, by a program that runs meanwhile."""
        self._running[name].process.send_signal(signal.SIGCONT)
        try:
            return self.drivers[name].run(size=size, window=WINDOW, packets=frames)
        finally:
            self.pause(name)


@pytest.fixture(scope="module")
def nics(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nics]:
    """The programs."""
    if reason := missing(PMD_BACK_END):
        pytest.skip(reason)
    processors = sorted(os.sched_getaffinity(0))
    if processors[:2] != [0, 1]:
        pytest.skip("testpmd needs processors 0 and 1")
    with ExitStack() as stack, on_processor(0):
        yield Nics(stack, tmp_path_factory.mktemp("nics"), 1)


@pytest.mark.parametrize("size", [64, 1500])
def test_nic(benchmark: Any, figure: Figure, nics: Nics, size: int) -> None:
    """Frames there and back; `WINDOW` of them are on their way."""
    benchmark.group = "data path: frames of a NIC"
    series = Series(
        {
            name: lambda name=name: nics.run(name, size=size, frames=FRAMES)  # type: ignore[misc]
            for name in (OURS, DAEMON)
        }
    )
    _measure(benchmark, series)
    millions = {name: FRAMES / series.median(name) / 1e6 for name in (OURS, DAEMON)}
    figure.info.update(frames_per_us=millions, ratio=series.ratio(DAEMON))
    figure.notes = {
        "ours": f"{millions[OURS]:.2f} M/s",
        "testpmd": f"{millions[DAEMON]:.2f} M/s",
        "x": f"{series.ratio(DAEMON):.2f}",
    }
