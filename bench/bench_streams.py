"""Memory sent to another process over loopback, by one socket or several, plain or with TLS.

All memory of a VM was written, and its guest is idle. Ours is its pre-copy, from the search for
the memory that was written until the destination has all of it. It is measured in turn with the
least that can be done for that: a thread for each socket sends its share by sendfile from the same
memfd, and another one at the destination receives it by recv_into into the same memory. With TLS
the threads use Python's TLS sockets instead. The destination's memory is new each time, except in
the case *again*, in which it has all pages, as in later rounds.
"""

from __future__ import annotations

import datetime as dt
import json
import mmap
import os
import socket
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any

import pytest

from bench.figures import AGAIN, NEW, OURS
from bench.replay import recorded, replay
from emu.config.migration_parameters import Parameters
from emu.machine.ram import GuestRam
from emu.migration.convergence import DeviceDowntime
from emu.migration.device_probe import DowntimeForecast
from emu.migration.multifd import ReceivingChannels, SendingChannels, split_evenly
from emu.migration.precopy import Precopy
from emu.migration.ram_sync import RamSync
from emu.migration.stream import Kind, MigrationStream
from emu.migration.tls import Credentials, secure
from vhost_user.dirty_log import DirtyLog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from bench.figures import Figure
    from emu.migration.stream import Run

MIB = 1 << 20
TIMEOUT = 60.0
HOST = "127.0.0.1"
FLOOR = "floor"
#: Measurements of each kind, by the size of memory in MiB.
ROUNDS = {4096: 3, 512: 3, 128: 5}


def _runs(ram: GuestRam) -> list[Run]:
    return [(region.gpa, region.size) for region in ram.regions]


def _shared(
    socks: Sequence[socket.socket],
    ram: GuestRam,
    transfer: Callable[[socket.socket, GuestRam, Run], None],
) -> None:
    """Transfer all memory, an equal share by each socket, with a thread each."""

    def work(sock: socket.socket, share: list[Run]) -> None:
        for run in share:
            transfer(sock, ram, run)

    with ThreadPoolExecutor(len(socks)) as pool:
        list(pool.map(work, socks, split_evenly(_runs(ram), len(socks))))


def _send(sock: socket.socket, ram: GuestRam, run: Run) -> None:
    fd, offset = ram.locate(*run)
    end = offset + run[1]
    while offset < end:
        offset += os.sendfile(sock.fileno(), fd, offset, end - offset)


def _send_encrypted(sock: socket.socket, ram: GuestRam, run: Run) -> None:
    sock.sendall(ram.view(*run))


def _receive(sock: socket.socket, ram: GuestRam, run: Run) -> None:
    view = ram.view(*run)
    while len(view):
        view = view[sock.recv_into(view) or len(view) :]


def _secured(
    sock: socket.socket, credentials: Credentials | None, *, server: bool
) -> socket.socket:
    if credentials is None:
        return sock
    host = "" if server else HOST
    return secure(sock, credentials, server=server, host=host, timeout=TIMEOUT)


def _empty(ram: GuestRam) -> None:
    """Make all pages holes again."""
    for region in ram.regions:
        with mmap.mmap(region.fd, region.size) as mapping:
            mapping.madvise(mmap.MADV_REMOVE)


def _receive_precopy(stream: MigrationStream, channels: ReceivingChannels, ram: GuestRam) -> None:
    while True:
        kind, count, payload = stream.receive()
        if kind is Kind.RAM:
            stream.receive_ram(ram, count, payload)
        elif kind is Kind.BARRIER:
            channels.await_barrier(TIMEOUT)
        else:
            stream.send(Kind.READY)
            return


def receive(size: int, streams: int, credentials: Credentials | None) -> None:
    """The other process: each line of its standard input says how memory comes next."""
    ram = GuestRam(size)
    server = socket.create_server((HOST, 0))
    print(server.getsockname()[1], flush=True)
    socks = [_secured(server.accept()[0], credentials, server=True) for _ in range(2 * streams)]
    first, *others = [MigrationStream(socks.pop(), timeout=TIMEOUT) for _ in range(streams)]
    channels = ReceivingChannels(first, others, ram)
    channels.open()
    for line in sys.stdin:
        kind, state = line.split()
        if state == NEW:
            _empty(ram)
        print("ready", flush=True)
        start = time.process_time()
        if kind == OURS:
            _receive_precopy(first, channels, ram)
        else:
            _shared(socks, ram, _receive)
            socks[0].sendall(b"\0")
        print(time.process_time() - start, flush=True)
    channels.finish()


class NoDevices(DowntimeForecast):
    """Of a VM that has none."""

    def __init__(self) -> None: ...

    def expected(self) -> DeviceDowntime:
        """No downtime besides memory."""
        return DeviceDowntime()

    def use_destination(self, payload: bytes) -> None:
        """The destination has none either."""


class Source:
    """The memory, and its connections to the other process.

    Args:
        stack: closes them.
        size: bytes.
        streams: sockets.
        paths: of the files of `Credentials`; None for plain sockets.
    """

    def __init__(self, stack: ExitStack, size: int, streams: int, paths: list[str] | None) -> None:
        credentials = None if paths is None else Credentials(*paths)
        self._encrypted = credentials is not None
        self.ram = stack.enter_context(closing(GuestRam(size)))
        for run in _runs(self.ram):
            self.ram.view(*run)[:] = bytes([7]) * run[1]
        argv = [sys.executable, "-m", "bench.bench_streams", str(size), str(streams)]
        pipe = subprocess.PIPE
        self._process = stack.enter_context(
            subprocess.Popen([*argv, json.dumps(paths)], stdin=pipe, stdout=pipe, text=True)
        )
        stack.callback(self._process.kill)
        port = int(self._answer())
        self._socks = [
            _secured(socket.create_connection((HOST, port)), credentials, server=False)
            for _ in range(2 * streams)
        ]
        for sock in self._socks:
            stack.callback(sock.close)
        self._first, *others = [
            MigrationStream(self._socks.pop(), timeout=TIMEOUT) for _ in range(streams)
        ]
        self._channels = stack.enter_context(closing(SendingChannels(self._first, others)))

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def measure(self, kind: str, state: str) -> tuple[float, float]:
        """Seconds until the other process has all memory; and of CPU time of both processes."""
        assert self._process.stdin is not None
        print(kind, state, file=self._process.stdin, flush=True)
        assert self._answer() == "ready\n"
        start, cpu = time.perf_counter(), time.process_time()
        if kind == OURS:
            self._precopy()
            self._first.send(Kind.SWITCHOVER)
            assert self._first.receive()[0] is Kind.READY
        else:
            _shared(self._socks, self.ram, _send_encrypted if self._encrypted else _send)
            assert self._socks[0].recv(1)
        took = time.perf_counter() - start
        return took, time.process_time() - cpu + float(self._answer())

    def _precopy(self) -> None:
        with closing(DirtyLog.create(self.ram.pages)) as log:
            Precopy(
                self.ram,
                RamSync(self.ram, log),
                self._channels,
                Parameters(),
                lambda *_: None,
                forecast=NoDevices(),
                throttle=lambda _: None,
                pause=time.sleep,
                check=lambda: None,
            ).run(lambda: b"")


def _credentials(folder: Path) -> list[str]:
    trustme = pytest.importorskip("trustme")
    authority = trustme.CA()
    issued = authority.issue_cert(HOST, not_after=dt.datetime(2100, 1, 1, tzinfo=dt.UTC))
    paths = [str(folder / name) for name in ("cert", "key", "ca")]
    issued.cert_chain_pems[0].write_to_path(paths[0])
    issued.private_key_pem.write_to_path(paths[1])
    authority.cert_pem.write_to_path(paths[2])
    return paths


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Ends the other process."""
    with ExitStack() as made:
        yield made


@pytest.mark.benchmark(timer=recorded)
@pytest.mark.parametrize(
    ("transport", "mib", "streams", "state"),
    [
        ("plain", 4096, 1, NEW),
        *(("plain", 512, streams, NEW) for streams in (1, 2, 4)),
        ("plain", 512, 1, AGAIN),
        pytest.param("TLS", 128, 1, NEW, marks=pytest.mark.smoke),
        *(("TLS", 128, streams, NEW) for streams in (2, 4)),
    ],
)
def test_streams(
    benchmark: Any,
    figure: Figure,
    stack: ExitStack,
    tmp_path: Path,
    transport: str,
    mib: int,
    streams: int,
    state: str,
) -> None:
    """Ours and the floor in turn; the one that begins changes."""
    if os.sysconf("SC_PHYS_PAGES") * mmap.PAGESIZE < 3 * mib * MIB:
        pytest.skip(f"both sides together need {2 * mib} MiB of memory")
    benchmark.group = f"streams {transport}"
    paths = _credentials(tmp_path) if transport == "TLS" else None
    source = Source(stack, mib * MIB, streams, paths)
    if state == AGAIN:
        source.measure(FLOOR, state)
    rounds: dict[str, list[tuple[float, float]]] = {OURS: [], FLOOR: []}
    for number in range(1 if benchmark.disabled else ROUNDS[mib]):
        for kind in (OURS, FLOOR) if number % 2 else (FLOOR, OURS):
            rounds[kind].append(source.measure(kind, state))
    ours, floor = (list(zip(*rounds[kind], strict=True)) for kind in (OURS, FLOOR))
    rates = [mib / statistics.median(times) for times, _ in (ours, floor)]
    cpu_ms = [statistics.median(cpus) / mib * 1024e3 for _, cpus in (ours, floor)]
    ratio = rates[0] / rates[1]
    least = "TLS sockets" if paths else "sendfile"
    name = f"{mib} MiB, {streams} stream{'s' if streams > 1 else ''}"
    figure.name = name if state == NEW else f"{name}, {state}"
    figure.info.update(mib_per_s=rates, ratio=ratio, cpu_ms_per_gib=cpu_ms)
    figure.notes = {
        "ours": f"{rates[0]:.0f} MiB/s",
        least: f"{rates[1]:.0f} MiB/s",
        f"of {least}": f"{ratio:.0%}",
        "CPU/GiB": f"{cpu_ms[0]:.0f} ms",
        f"{least} CPU/GiB": f"{cpu_ms[1]:.0f} ms",
    }
    replay(benchmark, ours[0])


if __name__ == "__main__":
    made = json.loads(sys.argv[3])
    receive(int(sys.argv[1]), int(sys.argv[2]), None if made is None else Credentials(*made))
