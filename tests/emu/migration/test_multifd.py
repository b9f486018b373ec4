"""Memory over several sockets: every page, in the right order, or an error on both sides."""
# ruff: noqa: D102, D103 - the names say what they do

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
from emu.migration.multifd import ReceivingChannels, SendingChannels, shares
from emu.migration.ram_sync import pieces, total
from emu.migration.stream import Kind, MigrationStream
from emu.strategies.timeline import now
from tests.emu.migration.sites import Migration, await_work, check_request_log
from tests.timeouts import TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from emu.vm.vm import Vm

MIB = 1 << 20
SIZE = 32 * MIB
CHUNK = 32 << 10


class Wires:
    """Sockets from one memory to another."""

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
def wires(request: pytest.FixtureRequest) -> Iterator[Wires]:
    """With so many sockets."""
    made = Wires(request.param)
    yield made
    made.close()


_runs = st.lists(st.tuples(st.integers(0, 50), st.integers(1, 300)), max_size=20).map(
    lambda parts: [
        (sum(gap + size for gap, size in parts[:index]) * 4096 + gap * 4096, size * 4096)
        for index, (gap, size) in enumerate(parts)
    ]
)


@given(_runs, st.integers(1, 16))
def test_shares_are_everything_once_and_even(runs: list[tuple[int, int]], count: int) -> None:
    found = shares(runs, count)
    assert len(found) == count
    assert [page for share in found for run in share for page in _pages(run)] == [
        page for run in runs for page in _pages(run)
    ]
    sizes = [total(share) for share in found]
    assert max(sizes) <= -(-total(runs) // count) + 4095


def _pages(run: tuple[int, int]) -> range:
    return range(run[0], run[0] + run[1], 4096)


@pytest.mark.parametrize("slow", [0, -1])
def test_a_later_round_is_never_overtaken(
    wires: Wires, monkeypatch: pytest.MonkeyPatch, slow: int
) -> None:
    """Although one socket is read late, and the next round says more of its pages by another."""
    monkeypatch.setattr(multifd, "LITTLE", CHUNK + 1)
    late = threading.Event()
    receive_ram = MigrationStream.receive_ram

    def dawdle(stream: MigrationStream, ram: GuestRam, count: int, table: bytes) -> int:
        if stream is wires.theirs[slow]:
            late.wait(0.02)
        return receive_ram(stream, ram, count, table)

    monkeypatch.setattr(MigrationStream, "receive_ram", dawdle)
    wires.start()
    # A chunk for each socket, so few that the sockets' buffers take the whole round.
    runs = [(number * CHUNK, CHUNK) for number in range(len(wires.theirs))]
    whole = wires.source.view(0, len(runs) * CHUNK)
    for number in range(1, 8):
        whole[:] = bytes([number]) * len(whole)
        turn = number % len(runs)
        wires.sending.send_ram(wires.source, runs[turn:] + runs[:turn])
        wires.sending.end_round()
        if number % 3 == 0:  # what goes by the first socket alone is no exception
            whole[:CHUNK] = bytes([100 + number]) * CHUNK
            wires.sending.send_ram(wires.source, runs[:1])
            wires.sending.end_round()
    wires.finish()
    assert wires.error is None
    assert wires.destination.view(0, len(whole)) == whole


def test_what_is_little_goes_by_the_first_socket_alone(wires: Wires) -> None:
    """In a blackout no thread is waited for."""
    wires.start()
    wires.source.view(0, 4096)[:] = b"x" * 4096
    wires.sending.send_ram(wires.source, [(0, 4096)])
    wires.finish()
    assert wires.destination.view(0, 4096) == b"x" * 4096
    assert all(stream.bytes_sent == 0 for stream in wires.sending._others)


@pytest.mark.parametrize("broken", [0, 1, 3])
def test_an_error_on_any_socket_ends_both_sides(broken: int) -> None:
    made = Wires(4)
    try:
        made.start()
        view = made.source.view(0, SIZE)
        view[:] = b"y" * SIZE
        made.theirs[broken].interrupt()
        with pytest.raises(MigrationError):
            made.send_rounds(100)
        made._first.interrupt()  # as a source that gives up does
        made.join()
        assert made.error is not None
    finally:
        made.close()


def test_a_stranger_on_a_further_socket() -> None:
    """What is no memory ends the migration."""
    made = Wires(2)
    try:
        made.start()
        made.sending._others[0].send(Kind.GO)
        made.join()
        assert "received GO, expected RAM" in str(made.error)
    finally:
        made.close()


def test_the_bandwidth_limit_holds_for_all_together(wires: Wires) -> None:
    """The bucket counts what goes, whichever way."""
    wires.start()
    limit = 64 * MIB
    bucket = TokenBucket(limit)
    wires.source.view(0, SIZE)[:] = b"z" * SIZE
    began = now()
    rest = threading.Event()
    for piece in pieces([(0, SIZE)], 2 * MIB):
        wires.sending.send_ram(wires.source, piece)
        rest.wait(bucket.consume(total(piece)) / 1e9)
    took = (now() - began) / 1e9
    wires.finish()
    assert SIZE / took <= limit * 1.1


@pytest.mark.parametrize("strategy", ["qemu-2021", "prewired"])
def test_a_whole_migration_over_three_sockets(
    vm: Vm, other: Vm, tmp_path: Path, strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With every socket used for what there is, be it little."""
    monkeypatch.setattr(multifd, "LITTLE", 1)
    threads = threading.active_count()
    migration = Migration(vm, other, strategy, tmp_path, Parameters(deadline=TIMEOUT, streams=3))
    migration.run()
    assert migration.received == [None]
    await_work(other)
    check_request_log(other)
    assert not [t for t in threading.enumerate() if t.name.startswith("stream ")], threads
