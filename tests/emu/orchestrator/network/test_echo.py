"""The echo client, with stations on datagram sockets."""
# ruff: noqa: D102, D103 - the name of a test is its documentation

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from emu.errors import EmuError
from emu.guest.frames import Probe, nic_mac
from emu.orchestrator.network.echo import CLIENT_MAC, ProbeClient
from tests.timeouts import TIMEOUT
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MS = 1_000_000


class Station:
    """Replies to probes at a path while it is on, as a guest does through an uplink."""

    def __init__(self, path: Path, *, twice: bool = False) -> None:
        self.on = True
        self.replies = 0
        self._lock = threading.Lock()
        self._twice = twice
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.bind(str(path))
        self._sock.settimeout(0.05)
        self._stop = False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop:
            try:
                frame, address = self._sock.recvfrom(2048)
            except TimeoutError:
                continue
            probe = Probe.parse(frame)
            assert probe is not None
            with self._lock:
                if self.on:
                    self._reply(probe, address)

    def _reply(self, probe: Probe, address: str) -> None:
        with suppress(OSError):  # the client has stopped meanwhile
            for _ in range(1 + self._twice):
                self._sock.sendto(probe.reply(nic_mac(0)).pack(), address)
        self.replies += 1

    def off(self) -> int:
        """Stop replying; return the number of replies."""
        with self._lock:
            self.on = False
            return self.replies

    def close(self) -> None:
        self._stop = True
        self._thread.join(TIMEOUT)
        self._sock.close()


@pytest.fixture
def stations(tmp_path: Path) -> Iterator[list[Station]]:
    """Two sides; the second is off."""
    made = [Station(tmp_path / "a"), Station(tmp_path / "b")]
    made[1].on = False
    yield made
    for station in made:
        station.close()


def run_client(tmp_path: Path) -> ProbeClient:
    client = ProbeClient([str(tmp_path / "a"), str(tmp_path / "b")], str(tmp_path / "c"))
    client.start()
    return client


def test_the_gap_is_the_time_between_the_sides(tmp_path: Path, stations: list[Station]) -> None:
    client = run_client(tmp_path)
    wait_until(lambda: client.counts().answered > 20)
    answered = stations[0].off()
    wait_until(lambda: client.counts().answered == answered)
    begin = time.monotonic_ns()
    threading.Event().wait(0.12)
    end = time.monotonic_ns()
    stations[1].on = True
    wait_until(lambda: client.counts().answered > answered + 20)
    client.stop()
    gap = client.max_gap_ms(begin, end)
    assert gap is not None
    # No reply was in flight when the silence began.
    assert gap >= (end - begin) / 1e6
    assert client.counts().duplicated == 0


def test_the_client_sends_about_one_probe_a_millisecond(
    tmp_path: Path, stations: list[Station]
) -> None:
    begin = time.monotonic_ns()
    client = run_client(tmp_path)
    wait_until(lambda: client.counts().answered > 100)
    client.stop()
    took = (time.monotonic_ns() - begin) / 1e6
    assert 100 < client.counts().sent <= took + 20


def test_without_a_reply_there_is_no_gap(tmp_path: Path) -> None:
    client = run_client(tmp_path)
    wait_until(lambda: client.counts().sent)
    client.stop()
    assert client.max_gap_ms(0, time.monotonic_ns()) is None
    assert client.counts().sent > 0
    assert not (tmp_path / "c").exists()


def test_duplicate_replies_are_counted(tmp_path: Path) -> None:
    station = Station(tmp_path / "a", twice=True)
    try:
        client = run_client(tmp_path)
        wait_until(lambda: client.counts().duplicated > 10)
        client.stop()
    finally:
        station.close()


def test_gaps_that_overlap_the_interval_count_in_full(tmp_path: Path) -> None:
    client = ProbeClient([], str(tmp_path / "c"))
    client._times.extend([10 * MS, 11 * MS, 12 * MS, 40 * MS, 41 * MS, 100 * MS])
    assert client.max_gap_ms(20 * MS, 30 * MS) == 28.0
    assert client.max_gap_ms(11 * MS, 11 * MS + 1) == 1.0
    assert client.max_gap_ms(10 * MS, 41 * MS) == 28.0
    assert client.max_gap_ms(0, 11 * MS) == 10.0
    assert client.max_gap_ms(90 * MS, 300 * MS) == 200.0
    client.stop()
    client.stop()


def test_a_socket_path_that_cannot_be_bound_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EmuError, match="echo client"):
        ProbeClient([], str(tmp_path / "missing" / "c"))


def test_frames_that_are_not_replies_are_ignored(tmp_path: Path) -> None:
    client = ProbeClient([], str(tmp_path / "c"))
    client.start()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        unasked = Probe(CLIENT_MAC, nic_mac(0), 1 << 40, 0, is_reply=True)
        for frame in (b"", b"x" * 60, unasked.pack()):
            sender.sendto(frame, str(tmp_path / "c"))
    threading.Event().wait(0.05)
    client.stop()
    assert client.counts().answered == 0
