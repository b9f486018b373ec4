"""The echo client, against stations on real datagram sockets."""
# ruff: noqa: D102, D103 - the name of a test says what it is about

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

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MS = 1_000_000


class Station:
    """Answers probes at a path while it is on, as a guest behind an uplink does."""

    def __init__(self, path: Path, *, twice: bool = False) -> None:
        self.on = True
        self.replies: list[int] = []
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
            if self.on:
                with suppress(OSError):  # the client has stopped meanwhile
                    for _ in range(1 + self._twice):
                        self._sock.sendto(probe.reply(nic_mac(0)).pack(), address)
                self.replies.append(time.monotonic_ns())

    def close(self) -> None:
        self._stop = True
        self._thread.join(5)
        self._sock.close()


@pytest.fixture
def stations(tmp_path: Path) -> Iterator[list[Station]]:
    """Two sides; the second is off."""
    made = [Station(tmp_path / "a"), Station(tmp_path / "b")]
    made[1].on = False
    yield made
    for station in made:
        station.close()


def run_client(tmp_path: Path, seconds: float = 0.1) -> ProbeClient:
    client = ProbeClient([str(tmp_path / "a"), str(tmp_path / "b")], str(tmp_path / "c"))
    client.start()
    threading.Event().wait(seconds)
    return client


def test_the_gap_is_the_time_between_the_sides(tmp_path: Path, stations: list[Station]) -> None:
    client = run_client(tmp_path)
    stations[0].on = False
    begin = time.monotonic_ns()
    threading.Event().wait(0.12)
    stations[1].on = True
    end = time.monotonic_ns()
    threading.Event().wait(0.1)
    client.stop()
    gap = client.max_gap_ms(begin, end)
    # the stations' own clocks say how long nobody answered; answers take a while to arrive
    silence = (stations[1].replies[0] - stations[0].replies[-1]) / 1e6
    assert gap is not None
    assert silence >= 110
    assert abs(gap - silence) < 100
    assert client.counts().answered > 20
    assert client.counts().duplicated == 0


def test_it_sends_about_one_a_millisecond(tmp_path: Path, stations: list[Station]) -> None:
    client = run_client(tmp_path, 0.3)
    client.stop()
    sent = client.counts().sent
    assert 100 < sent <= 320
    assert client.counts().answered > sent // 2


def test_without_an_answer_there_is_no_gap(tmp_path: Path) -> None:
    client = run_client(tmp_path, 0.02)
    client.stop()
    assert client.max_gap_ms(0, time.monotonic_ns()) is None
    assert client.counts().sent > 0
    assert not (tmp_path / "c").exists()


def test_answers_that_come_twice_are_counted(tmp_path: Path) -> None:
    station = Station(tmp_path / "a", twice=True)
    try:
        client = run_client(tmp_path)
        client.stop()
    finally:
        station.close()
    assert client.counts().duplicated > 10


def test_gaps_count_in_full_where_they_touch_the_span(tmp_path: Path) -> None:
    client = ProbeClient([], str(tmp_path / "c"))
    client._times.extend([10 * MS, 11 * MS, 12 * MS, 40 * MS, 41 * MS, 100 * MS])
    assert client.max_gap_ms(20 * MS, 30 * MS) == 28.0
    assert client.max_gap_ms(11 * MS, 11 * MS + 1) == 1.0
    assert client.max_gap_ms(10 * MS, 41 * MS) == 28.0
    assert client.max_gap_ms(0, 11 * MS) == 10.0
    assert client.max_gap_ms(90 * MS, 300 * MS) == 200.0
    client.stop()
    client.stop()


def test_a_path_that_cannot_be_had(tmp_path: Path) -> None:
    with pytest.raises(EmuError, match="echo client"):
        ProbeClient([], str(tmp_path / "missing" / "c"))


def test_frames_that_are_no_answers_are_ignored(tmp_path: Path) -> None:
    client = ProbeClient([], str(tmp_path / "c"))
    client.start()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        unasked = Probe(CLIENT_MAC, nic_mac(0), 1 << 40, 0, is_reply=True)
        for frame in (b"", b"x" * 60, unasked.pack()):
            sender.sendto(frame, str(tmp_path / "c"))
    threading.Event().wait(0.05)
    client.stop()
    assert client.counts().answered == 0
