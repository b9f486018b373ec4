"""Memory over several channels: every page, in the right order, or an error on both sides."""
# ruff: noqa: D102, D103 - the names describe them

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.config.migration_parameters import Parameters
from emu.errors import MigrationError
from emu.machine.ram import GuestRam
from emu.migration import multifd
from emu.migration.bandwidth import TokenBucket
from emu.migration.multifd import ReceivingChannels, SendingChannels, split_evenly
from emu.migration.ram_sync import chunks, total
from emu.migration.stream import Kind, MigrationStream
from emu.strategies.timeline import now
from tests.emu.migration.hosts import Migration, await_requests, check_request_log
from tests.timeouts import TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from emu.vm.vm import Vm

MIB = 1 << 20
SIZE = 32 * MIB
CHUNK = 32 << 10


class Channels:
    """Multifd channels from one memory to another."""

    def __init__(self, count: int) -> None:
        pairs = [socket.socketpair() for _ in range(count)]
        ours = [MigrationStream(pair[0], timeout=TIMEOUT) for pair in pairs]
        self.theirs = [MigrationStream(pair[1], timeout=TIMEOUT) for pair in pairs]
        self.source, self.destination = GuestRam(SIZE), GuestRam(SIZE)
        self._first = ours[0]
        self.sending = SendingChannels(ours[0], ours[1:])
        self.receiving = ReceivingChannels(self.theirs[0], self.theirs[1:], self.destination)
        self.error: MigrationError | None = None
        self._thread = threading.Thread(target=self._receive)

    def start(self) -> None:
        self.receiving.open()
        self._thread.start()

    def _receive(self) -> None:
        first = self.theirs[0]
        try:
            while True:
                kind, count, payload = first.receive()
                if kind is Kind.RAM:
                    first.receive_ram(self.destination, count, payload)
                elif kind is Kind.BARRIER:
                    self.receiving.await_barrier(TIMEOUT)
                else:
                    self.receiving.finish()
                    return
        except MigrationError as error:
            try:
                self.receiving.check()
            except MigrationError as cause:
                self.error = cause
            else:
                self.error = error

    def send_rounds(self, count: int) -> None:
        for _ in range(count):
            self.sending.send_ram(self.source, [(0, SIZE)])
            self.sending.end_round()

    def finish(self) -> None:
        self.sending.end_round()
        self._first.send(Kind.SWITCHOVER)
        self.join()

    def join(self) -> None:
        self._thread.join(TIMEOUT)
        assert not self._thread.is_alive()

    def close(self) -> None:
        self._first.interrupt()
        self.sending.close()
        self.receiving.close()
        self._thread.join(TIMEOUT)
        self._first.close()
        self.theirs[0].close()
        self.source.close()
        self.destination.close()


@pytest.fixture(params=[1, 2, 4])
def channels(request: pytest.FixtureRequest) -> Iterator[Channels]:
    """As many channels as the parameter."""
    made = Channels(request.param)
    yield made
    made.close()


_runs = st.lists(st.tuples(st.integers(0, 50), st.integers(1, 300)), max_size=20).map(
    lambda parts: [
        (sum(gap + size for gap, size in parts[:index]) * 4096 + gap * 4096, size * 4096)
        for index, (gap, size) in enumerate(parts)
    ]
)


@given(_runs, st.integers(1, 16))
def test_shares_are_even_and_have_each_page_once(runs: list[tuple[int, int]], count: int) -> None:
    shares = split_evenly(runs, count)
    assert len(shares) == count
    assert [page for share in shares for run in share for page in _pages(run)] == [
        page for run in runs for page in _pages(run)
    ]
    sizes = [total(share) for share in shares]
    assert max(sizes) <= -(-total(runs) // count) + 4095


def _pages(run: tuple[int, int]) -> range:
    return range(run[0], run[0] + run[1], 4096)


@pytest.mark.parametrize("slow", [0, -1])
def test_a_later_round_is_not_overwritten_by_an_earlier_one(
    channels: Channels, monkeypatch: pytest.MonkeyPatch, slow: int
) -> None:
    """One channel is read late, and the next round sends its pages over another channel."""
    monkeypatch.setattr(multifd, "MIN_PARALLEL_BYTES", CHUNK + 1)
    late = threading.Event()
    receive_ram = MigrationStream.receive_ram

    def receive_late(stream: MigrationStream, ram: GuestRam, count: int, table: bytes) -> int:
        if stream is channels.theirs[slow]:
            late.wait(0.02)
        return receive_ram(stream, ram, count, table)

    monkeypatch.setattr(MigrationStream, "receive_ram", receive_late)
    channels.start()
    # A chunk for each socket, so few that the sockets' buffers take the whole round.
    runs = [(number * CHUNK, CHUNK) for number in range(len(channels.theirs))]
    whole = channels.source.view(0, len(runs) * CHUNK)
    for number in range(1, 8):
        whole[:] = bytes([number]) * len(whole)
        turn = number % len(runs)
        channels.sending.send_ram(channels.source, runs[turn:] + runs[:turn])
        channels.sending.end_round()
        if number % 3 == 0:  # a round over the first channel alone
            whole[:CHUNK] = bytes([100 + number]) * CHUNK
            channels.sending.send_ram(channels.source, runs[:1])
            channels.sending.end_round()
    channels.finish()
    assert channels.error is None
    assert channels.destination.view(0, len(whole)) == whole


def test_little_memory_is_sent_over_the_first_channel_alone(channels: Channels) -> None:
    """So a blackout does not wait for threads."""
    channels.start()
    channels.source.view(0, 4096)[:] = b"x" * 4096
    channels.sending.send_ram(channels.source, [(0, 4096)])
    channels.finish()
    assert channels.destination.view(0, 4096) == b"x" * 4096
    assert all(stream.bytes_sent == 0 for stream in channels.sending._others)


@pytest.mark.parametrize("broken", [0, 1, 3])
def test_an_error_on_any_socket_ends_both_sides(broken: int) -> None:
    made = Channels(4)
    try:
        made.start()
        view = made.source.view(0, SIZE)
        view[:] = b"y" * SIZE
        made.theirs[broken].interrupt()
        with pytest.raises(MigrationError):
            made.send_rounds(100)
        made._first.interrupt()  # as a source that fails does
        made.join()
        assert made.error is not None
    finally:
        made.close()


def test_a_section_other_than_ram_on_a_further_channel_is_an_error() -> None:
    """The error names both kinds."""
    made = Channels(2)
    try:
        made.start()
        made.sending._others[0].send(Kind.GO)
        made.join()
        assert "received GO, expected RAM" in str(made.error)
    finally:
        made.close()


def test_the_bandwidth_limit_holds_for_all_channels_together(channels: Channels) -> None:
    """The bucket counts the bytes of all channels."""
    channels.start()
    limit = 64 * MIB
    bucket = TokenBucket(limit)
    channels.source.view(0, SIZE)[:] = b"z" * SIZE
    began = now()
    never = threading.Event()
    for chunk in chunks([(0, SIZE)], 2 * MIB):
        channels.sending.send_ram(channels.source, chunk)
        never.wait(bucket.consume(total(chunk)) / 1e9)
    took = (now() - began) / 1e9
    channels.finish()
    assert SIZE / took <= limit * 1.1


@pytest.mark.parametrize("strategy", ["qemu-2021", "prewired"])
def test_a_migration_over_three_channels(
    vm: Vm, other: Vm, tmp_path: Path, strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every channel carries memory, however little."""
    monkeypatch.setattr(multifd, "MIN_PARALLEL_BYTES", 1)
    threads = threading.active_count()
    migration = Migration(vm, other, strategy, tmp_path, Parameters(timeout=TIMEOUT, streams=3))
    migration.run()
    assert migration.received == [None]
    await_requests(other)
    check_request_log(other)
    assert not [t for t in threading.enumerate() if t.name.startswith("stream ")], threads
