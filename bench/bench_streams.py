"""Memory over one socket or several, plain or with TLS, to another process over loopback.

A round is 256 MiB that have been sent and taken in, the barrier included.
"""

from __future__ import annotations

import datetime as dt
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from emu.machine.ram import GuestRam
from emu.migration.endpoint import Listener, connect
from emu.migration.multifd import ReceivingChannels, SendingChannels
from emu.migration.stream import Kind
from emu.migration.tls import Credentials

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SIZE = 256 << 20
TIMEOUT = 20.0


def receive(arguments: list[str]) -> None:
    """The other process: receive memory, and acknowledge each round."""
    streams = int(arguments[0])
    credentials = json.loads(arguments[1])
    listener = Listener(
        "tcp:127.0.0.1:0", None if credentials is None else Credentials(*credentials)
    )
    print(listener.uri, flush=True)
    ram = GuestRam(SIZE)
    made = [listener.accept(timeout=TIMEOUT) for _ in range(streams)]
    first, *others = [stream for stream in made if stream is not None]
    channels = ReceivingChannels(first, others, ram)
    channels.open()
    while True:
        kind, count, payload = first.receive()
        if kind is Kind.RAM:
            first.receive_ram(ram, count, payload)
        elif kind is Kind.BARRIER:
            channels.await_barrier(TIMEOUT)
        elif kind is Kind.SWITCHOVER:
            first.send(Kind.READY)
        else:
            break
    channels.finish()


def _credentials(folder: Path) -> list[str]:
    trustme = pytest.importorskip("trustme")
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1", not_after=dt.datetime(2100, 1, 1, tzinfo=dt.UTC))
    paths = [str(folder / name) for name in ("cert", "key", "ca")]
    issued.cert_chain_pems[0].write_to_path(paths[0])
    issued.private_key_pem.write_to_path(paths[1])
    authority.cert_pem.write_to_path(paths[2])
    return paths


@pytest.fixture
def ram() -> Iterator[GuestRam]:
    made = GuestRam(SIZE)
    made.view(0, SIZE)[:] = b"memory  " * (SIZE // 8)
    yield made
    made.close()


@pytest.mark.parametrize("streams", [1, 2, 4])
@pytest.mark.parametrize("transport", [pytest.param("plain", marks=pytest.mark.smoke), "tls"])
def test_streams(
    benchmark: Any, ram: GuestRam, tmp_path: Path, transport: str, streams: int
) -> None:
    benchmark.group = f"streams {transport}"
    paths = _credentials(tmp_path) if transport == "tls" else None
    argv = [sys.executable, "-m", "bench.bench_streams", str(streams), json.dumps(paths)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        uri = process.stdout.readline().strip()
        credentials = None if paths is None else Credentials(*paths)
        first, *others = [
            connect(uri, timeout=TIMEOUT, credentials=credentials) for _ in range(streams)
        ]
        channels = SendingChannels(first, others)

        def send() -> None:
            channels.send_ram(ram, [(0, SIZE)])
            channels.end_round()
            first.send(Kind.SWITCHOVER)
            assert first.receive()[0] is Kind.READY

        benchmark.pedantic(send, rounds=5, warmup_rounds=1)
        rate = SIZE / benchmark.stats.stats.min if benchmark.stats else 0
        benchmark.extra_info["best_mib_per_s"] = round(rate / (1 << 20))
        first.send(Kind.GO)
        channels.close()
        first.close()


if __name__ == "__main__":
    receive(sys.argv[1:])
