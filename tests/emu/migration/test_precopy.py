"""Pre-copy of a running VM: limits, a guest that writes too fast, and failures."""
# ruff: noqa: D102, D103 - the names describe them

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.config.migration_parameters import Parameters
from emu.errors import MigrationError, Operation
from emu.guest import layout
from emu.machine.ram import GuestRam
from emu.machine.throttle import MAX_PERCENT
from emu.migration import precopy as precopy_module
from emu.migration.convergence import FIRST_THROTTLE, THROTTLE_STEP, DeviceDowntime, Reason
from emu.migration.device_probe import DowntimeForecast
from emu.migration.precopy import Precopy
from emu.migration.ram_sync import RamSync, chunks, total
from emu.migration.stream import Kind, MigrationStream
from tests.emu.migration.hosts import (
    Events,
    Migration,
    await_requests,
    check_request_log,
)
from tests.timeouts import TIMEOUT
from tests.waiting import wait_until
from vhost_user.dirty_log import DirtyLog

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import ExitStack
    from pathlib import Path

    from emu.vm.vm import Vm
    from tests.emu.migration.hosts import Host

MIB = 1 << 20
MS = 1_000_000
WORKING_SET = 16 * MIB
#: Bytes a second that the guest writes, and that may be sent: far below what a busy host can do.
FAST, SLOW = 100 * MIB, 40 * MIB
#: Milliseconds of downtime. In this time a stream of 0.2 to 8 GiB/s carries less than the working
#: set, and more than a guest at the maximum throttle writes between two dirty bitmap syncs.
LIMIT = 2


class GivenForecast(DowntimeForecast):
    """Predicts what a test sets, by default no downtime besides memory, and probes no VM."""

    def __init__(self) -> None:
        self.payloads: list[bytes] = []
        self.besides = DeviceDowntime()

    def expected(self) -> DeviceDowntime:
        return self.besides

    def use_destination(self, payload: bytes) -> None:
        self.payloads.append(payload)


class Wire:
    """A stream into another memory, which must be equal in the end."""

    def __init__(self, size: int) -> None:
        ours, theirs = socket.socketpair()
        self.stream = MigrationStream(ours, timeout=TIMEOUT)
        self.ram = GuestRam(size)
        self._destination = MigrationStream(theirs, timeout=TIMEOUT)
        self._thread = threading.Thread(target=self._receive)
        self._thread.start()

    def _receive(self) -> None:
        with contextlib.suppress(MigrationError):  # a test may close the stream at any point
            while True:
                kind, count, payload = self._destination.receive()
                if kind is not Kind.RAM:
                    return
                self._destination.receive_ram(self.ram, count, payload)

    def finish(self) -> None:
        """Return when all memory has been received."""
        self.stream.send(Kind.SWITCHOVER)
        self._thread.join(TIMEOUT)
        assert not self._thread.is_alive()

    def close(self) -> None:
        self.stream.close()
        self._thread.join(TIMEOUT)
        self._destination.close()
        self.ram.close()


class Rig:
    """A running VM whose guest writes memory, and its pre-copy into another memory."""

    def __init__(self, vm: Vm, wire: Wire, log: DirtyLog) -> None:
        self.vm = vm
        self.wire = wire
        self.events = Events()
        self.forecast = GivenForecast()
        self.throttles: list[int] = []
        self.cancelled = threading.Event()
        self.sync = RamSync(vm.machine.ram, log)

    def precopy(self, parameters: Parameters) -> Precopy:
        return Precopy(
            self.vm.machine.ram,
            self.sync,
            self.wire.stream,
            parameters,
            self.events,
            forecast=self.forecast,
            throttle=self._throttle,
            pause=self.cancelled.wait,
            check=self._check,
        )

    def _throttle(self, percent: int) -> None:
        self.throttles.append(percent)
        self.vm.machine.vcpus.throttle(percent)

    def _check(self) -> None:
        if self.cancelled.is_set():
            raise MigrationError(Operation.PRE_COPY, "cancelled")

    @property
    def remaining(self) -> list[int]:
        """The dirty bytes after each round."""
        return [int(str(d["remaining"])) for name, d in self.events.seen if name.endswith("PASS")]


@pytest.fixture
def writing(hosts: tuple[Host, Host], owned: ExitStack, monkeypatch: pytest.MonkeyPatch) -> Vm:
    """A VM whose guest writes its memory and makes no requests."""
    monkeypatch.setattr(layout, "DIRTY_MEMORY_BYTES", WORKING_SET)
    vm = hosts[0].vm()
    owned.callback(vm.close)
    vm.boot()
    vm.guest.set_dirty_rate(FAST)
    vm.guest.start_load("none")
    return vm


@pytest.fixture
def rig(writing: Vm) -> Iterator[Rig]:
    log = DirtyLog.create(writing.log_pages)
    wire = Wire(writing.spec.memory_bytes)
    yield Rig(writing, wire, log)
    wire.close()
    log.close()


def prepared() -> bytes:
    return b""


def test_a_guest_that_writes_faster_than_memory_is_sent_is_throttled(rig: Rig) -> None:
    """Step by step until memory converges or the throttle is at its maximum; afterwards by 0%.

    The final throttle depends on the host's speed, so only the order of events is checked.
    """
    wait_until(lambda: total(rig.vm.machine.ram.extents()) > WORKING_SET)
    precopy = rig.precopy(Parameters(downtime_limit=LIMIT, max_bandwidth=SLOW, auto_converge=True))
    precopy.run(prepared)
    decision = precopy.progress.decision
    assert decision is not None
    steps = [*range(FIRST_THROTTLE, MAX_PERCENT, THROTTLE_STEP), MAX_PERCENT]
    assert rig.throttles
    assert rig.throttles == steps[: len(rig.throttles)]
    assert decision.estimate.throttle == rig.throttles[-1]
    assert rig.vm.machine.gate.throttle.percent == rig.throttles[-1]
    if decision.reason is Reason.CONVERGED:
        allowed = decision.estimate.bandwidth * LIMIT // 1000
        assert rig.remaining[-1] <= allowed < max(rig.remaining)
    else:
        assert decision.reason is Reason.ROUNDS or rig.throttles[-1] == MAX_PERCENT
    precopy.send_last_round()
    assert rig.throttles[-1] == rig.vm.machine.gate.throttle.percent == 0
    rig.vm.pause_vcpus()
    rig.wire.stream.send_ram(rig.vm.machine.ram, rig.sync.dirty())
    rig.wire.finish()
    start, size = rig.vm.guest.layout.dirty_memory
    assert rig.wire.ram.view(start, size) == rig.vm.machine.ram.view(start, size)


def test_a_round_that_takes_long_reports_how_far_it_is(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once, with the limit that makes it long, and then again and again; also while it waits."""
    monkeypatch.setattr(precopy_module, "EVENT_PERIOD_NS", 1_000_000)
    wait_until(lambda: total(rig.vm.machine.ram.extents()) > WORKING_SET)
    limited = rig.precopy(Parameters(max_bandwidth=40 << 10))

    def run() -> None:
        with contextlib.suppress(MigrationError):
            limited.run(prepared)

    thread = threading.Thread(target=run)
    thread.start()
    wait_until(lambda: len(rig.events.seen) >= 100)
    rig.cancelled.set()
    thread.join(TIMEOUT)
    rounds = [data for name, data in rig.events.seen if name == "MIGRATION_ROUND"]
    assert len(rounds) == len(rig.events.seen)
    assert rounds[0]["sent"] == 0
    assert all(data["round"] == 1 and data["max-bandwidth"] == 40 << 10 for data in rounds)
    sizes = {int(str(data["size"])) for data in rounds}
    assert len(sizes) == 1
    assert sizes.pop() > WORKING_SET
    sent = [int(str(data["sent"])) for data in rounds]
    assert sent == sorted(sent)
    assert len(set(sent)) < len(sent), "a page takes 100 ms, and an event comes after one"


def test_a_pre_copy_that_does_not_converge_is_reported(rig: Rig) -> None:
    wait_until(lambda: total(rig.vm.machine.ram.extents()) > WORKING_SET)
    limits = Parameters(downtime_limit=LIMIT, max_bandwidth=SLOW, on_no_converge="abort")
    precopy = rig.precopy(limits)
    with pytest.raises(MigrationError, match=r"does not converge: .* become dirty") as caught:
        precopy.run(prepared)
    assert "--auto-converge" in str(caught.value)
    assert precopy.progress.to_json()["reason"] == "no-progress"
    assert not rig.throttles
    assert not rig.forecast.payloads


def test_send_last_round_sends_nothing_if_more_would_be_dirty_afterwards(rig: Rig) -> None:
    wait_until(lambda: total(rig.vm.machine.ram.extents()) > WORKING_SET)
    precopy = rig.precopy(Parameters(downtime_limit=LIMIT, max_bandwidth=SLOW))
    precopy.run(prepared)
    sent = rig.wire.stream.bytes_sent
    precopy.send_last_round()
    assert rig.wire.stream.bytes_sent == sent
    assert precopy.progress.note
    assert total(rig.sync.dirty()) >= rig.remaining[-1] > MIB


def test_a_cancel_ends_the_wait_for_the_bandwidth_limit(rig: Rig) -> None:
    precopy = rig.precopy(Parameters(max_bandwidth=8 << 10))
    failed: list[MigrationError] = []

    def run() -> None:
        try:
            precopy.run(prepared)
        except MigrationError as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    wait_until(lambda: rig.wire.stream.bytes_sent > 2 << 10)
    # Without the cancel it would wait for minutes.
    rig.cancelled.set()
    thread.join(TIMEOUT)
    assert not thread.is_alive()
    assert "cancelled" in str(failed[0])
    assert rig.wire.stream.bytes_sent < 64 << 10


def test_the_last_decision_is_made_when_the_destination_is_prepared(rig: Rig) -> None:
    """Too many pages that became dirty meanwhile need another round."""
    rig.vm.guest.set_dirty_rate(0)
    start, _ = rig.vm.guest.layout.dirty_memory
    much = 96 * MIB

    def prepare() -> bytes:
        rig.vm.machine.ram.mark(start, much)
        return b"costs"

    precopy = rig.precopy(Parameters(downtime_limit=4))
    precopy.run(prepare)
    assert rig.forecast.payloads == [b"costs"]
    # On a busy machine there are more rounds before the destination is prepared, or afterwards.
    first, *others, last = rig.remaining
    assert first < MIB
    assert max(others) >= much
    assert last < MIB
    assert precopy.progress.rounds == len(rig.remaining)
    assert precopy.progress.to_json()["reason"] == "converged"


def test_a_migration_without_convergence_switches_over_by_default(
    writing: Vm, other: Vm, tmp_path: Path
) -> None:
    """The VM runs at the destination with every page as the guest wrote it."""
    wait_until(lambda: total(writing.machine.ram.extents()) > WORKING_SET)
    writing.guest.start_load("light")
    limits = Parameters(timeout=TIMEOUT, downtime_limit=0, max_bandwidth=SLOW)
    migration = Migration(writing, other, "prewired", tmp_path, limits)
    migration.run()
    report = migration.source.precopy_progress.to_json()
    assert report["reason"] in ("no-progress", "devices")
    assert report["expected_downtime_ms"] > 0
    assert "Raise --downtime-limit" in report["note"]
    log = other.guest.request_log()
    await_requests(other, 20)
    assert log.corrupted == 0
    check_request_log(other)


@pytest.mark.parametrize("auto_converge", [False, True])
def test_an_abort_leaves_the_vm_where_it_is(
    vm: Vm, other: Vm, tmp_path: Path, *, auto_converge: bool
) -> None:
    limits = Parameters(
        timeout=TIMEOUT, downtime_limit=0, on_no_converge="abort", auto_converge=auto_converge
    )
    migration = Migration(vm, other, "split", tmp_path, limits)
    with pytest.raises(MigrationError, match=r"a downtime of .* the limit is 0\.0 ms"):
        migration.run()
    assert isinstance(migration.received[0], MigrationError)
    assert vm.machine.gate.throttle.percent == 0
    assert not vm.machine.paused
    await_requests(vm)
    check_request_log(vm)


def test_the_expected_downtime_is_that_of_memory_and_of_the_forecast(rig: Rig) -> None:
    """Memory takes what is left, at the bandwidth that was measured."""
    rig.forecast.besides = DeviceDowntime(stop=30 * MS, start=40 * MS, vcpus=5 * MS)
    precopy = rig.precopy(Parameters(downtime_limit=10**6))
    precopy.run(prepared)
    decision = precopy.progress.decision
    assert decision is not None
    estimate = decision.estimate
    assert estimate.devices == rig.forecast.besides
    assert estimate.memory_ns == rig.remaining[-1] * 10**9 // estimate.bandwidth
    assert precopy.progress.expected_ns == estimate.memory_ns + 75 * MS
    last = [data for name, data in rig.events.seen if name == "MIGRATION_PASS"][-1]
    assert last["expected-downtime"] == precopy.progress.expected_ns // MS
    report = precopy.progress.to_json()
    figures = ["memory", "stop", "start", "vcpus"]
    parts = [report[f"expected_{figure}_ms"] for figure in figures]
    assert parts[1:] == [30, 40, 5]
    assert report["expected_downtime_ms"] == pytest.approx(sum(parts), abs=0.001)


def test_each_round_reports_the_expected_downtime(vm: Vm, other: Vm, tmp_path: Path) -> None:
    """How exact that is depends on the host's other load: bench/ measures it."""
    migration = Migration(vm, other, "qemu-2021", tmp_path, Parameters(timeout=TIMEOUT))
    migration.run()
    decision = migration.source.precopy_progress.decision
    assert decision is not None
    assert min(decision.estimate.devices) > 0
    assert migration.source.precopy_progress.expected_ns == decision.estimate.downtime_ns
    passes = [data for name, data in migration.events.seen if name == "MIGRATION_PASS"]
    assert len(passes) == migration.source.precopy_progress.rounds
    assert all("expected-downtime" in data for data in passes)


RUNS = st.lists(st.tuples(st.integers(0, 50), st.integers(1, 20)), max_size=20)


@given(lengths=RUNS, size=st.integers(1, 30))
def test_chunks_are_the_same_memory_in_the_same_order(
    lengths: list[tuple[int, int]], size: int
) -> None:
    runs, at = [], 0
    for gap, length in lengths:
        at += gap + 1
        runs.append((at * 4096, length * 4096))
        at += length
    groups = list(chunks(runs, size * 4096))
    assert all(total(group) == size * 4096 for group in groups[:-1])
    assert all(0 < total(group) <= size * 4096 for group in groups[-1:])

    def pages(runs: list[tuple[int, int]]) -> list[int]:
        return [page for gpa, length in runs for page in range(gpa, gpa + length, 4096)]

    assert pages([run for group in groups for run in group]) == pages(runs)
