"""Pre-copy of a VM that runs: limits, a guest that writes too fast, and failures."""
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
from emu.errors import MigrationError
from emu.guest import layout
from emu.machine.ram import GuestRam
from emu.machine.throttle import MAX_PERCENT
from emu.migration.convergence import FIRST_THROTTLE, THROTTLE_STEP, Expected, Reason
from emu.migration.device_probe import Forecast
from emu.migration.precopy import Precopy
from emu.migration.ram_sync import RamSync, pieces, total
from emu.migration.stream import Kind, MigrationStream
from tests.emu.migration.sites import (
    Events,
    Migration,
    await_work,
    check_request_log,
    wait_until,
)
from tests.timeouts import TIMEOUT
from vhost_user.dirty_log import DirtyLog

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import ExitStack
    from pathlib import Path

    from emu.vm.vm import Vm
    from tests.emu.migration.sites import Site

MIB = 1 << 20
WORKING_SET = 16 * MIB
#: Bytes a second of memory, and of what may be sent: far below what a busy machine manages.
FAST, SLOW = 100 * MIB, 40 * MIB
#: Milliseconds of downtime. A stream of 0.2 to 8 GiB/s carries less than the working set in them,
#: and more than a guest writes between two looks that has been slowed down as far as it can be.
LIMIT = 2


class Known(Forecast):
    """A forecast of no time besides memory, without a VM to probe."""

    def __init__(self) -> None:
        self.learned: list[bytes] = []

    def expected(self) -> Expected:
        return Expected()

    def learn(self, payload: bytes) -> None:
        self.learned.append(payload)


class Wire:
    """A stream into another memory, which must be the same in the end."""

    def __init__(self, size: int) -> None:
        ours, theirs = socket.socketpair()
        self.stream = MigrationStream(ours, timeout=TIMEOUT)
        self.ram = GuestRam(size)
        self._far = MigrationStream(theirs, timeout=TIMEOUT)
        self._thread = threading.Thread(target=self._receive)
        self._thread.start()

    def _receive(self) -> None:
        with contextlib.suppress(MigrationError):  # a test may close the stream at any point
            while True:
                kind, count, payload = self._far.receive()
                if kind is not Kind.RAM:
                    return
                self._far.receive_ram(self.ram, count, payload)

    def finish(self) -> None:
        """Return when all memory has been received."""
        self.stream.send(Kind.SWITCHOVER)
        self._thread.join(TIMEOUT)
        assert not self._thread.is_alive()

    def close(self) -> None:
        self.stream.close()
        self._thread.join(TIMEOUT)
        self._far.close()
        self.ram.close()


class Rig:
    """A running VM whose guest writes memory, and its pre-copy into another memory."""

    def __init__(self, vm: Vm, wire: Wire, log: DirtyLog) -> None:
        self.vm = vm
        self.wire = wire
        self.events = Events()
        self.known = Known()
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
            forecast=self.known,
            throttle=self._throttle,
            pause=self.cancelled.wait,
            check=self._check,
        )

    def _throttle(self, percent: int) -> None:
        self.throttles.append(percent)
        self.vm.machine.vcpus.throttle(percent)

    def _check(self) -> None:
        if self.cancelled.is_set():
            raise MigrationError("precopy", "cancelled")

    @property
    def remaining(self) -> list[int]:
        """What each round has left."""
        return [int(str(d["remaining"])) for name, d in self.events.seen if name.endswith("PASS")]


@pytest.fixture
def writing(sites: tuple[Site, Site], owned: ExitStack, monkeypatch: pytest.MonkeyPatch) -> Vm:
    """A VM that does nothing but write its memory."""
    monkeypatch.setattr(layout, "DIRTY_MEMORY_BYTES", WORKING_SET)
    vm = sites[0].vm()
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


def test_slows_a_guest_down_that_writes_faster_than_it_is_sent(rig: Rig) -> None:
    """Step by step, until it converges or no further throttle is possible; then it runs freely.

    How far the throttle has to go depends on the machine, so only the order of events is checked.
    """
    wait_until(lambda: total(rig.vm.machine.ram.extents()) > WORKING_SET)
    precopy = rig.precopy(Parameters(downtime_limit=LIMIT, max_bandwidth=SLOW, auto_converge=True))
    precopy.run(prepared)
    decision = precopy.sent.decision
    assert decision is not None
    steps = [*range(FIRST_THROTTLE, MAX_PERCENT, THROTTLE_STEP), MAX_PERCENT]
    assert rig.throttles
    assert rig.throttles == steps[: len(rig.throttles)]
    assert decision.outlook.throttle == rig.throttles[-1]
    assert rig.vm.machine.gate.throttle.percent == rig.throttles[-1]
    if decision.reason is Reason.CONVERGED:
        allowed = decision.outlook.bandwidth * LIMIT // 1000
        assert rig.remaining[-1] <= allowed < max(rig.remaining)
    else:
        assert decision.reason is Reason.ROUNDS or rig.throttles[-1] == MAX_PERCENT
    precopy.top_up()
    assert rig.throttles[-1] == rig.vm.machine.gate.throttle.percent == 0
    rig.vm.pause_vcpus()
    rig.wire.stream.send_ram(rig.vm.machine.ram, rig.sync.dirty())
    rig.wire.finish()
    start, size = rig.vm.guest.layout.dirty_memory
    assert rig.wire.ram.view(start, size) == rig.vm.machine.ram.view(start, size)


def test_a_pre_copy_that_does_not_converge_is_reported(rig: Rig) -> None:
    wait_until(lambda: total(rig.vm.machine.ram.extents()) > WORKING_SET)
    limits = Parameters(downtime_limit=LIMIT, max_bandwidth=SLOW, on_no_converge="abort")
    precopy = rig.precopy(limits)
    with pytest.raises(MigrationError, match=r"does not converge: .* become dirty") as caught:
        precopy.run(prepared)
    assert "--auto-converge" in str(caught.value)
    assert precopy.sent.to_json()["reason"] == "no-progress"
    assert not rig.throttles
    assert not rig.known.learned


def test_top_up_sends_nothing_where_more_would_be_dirty_afterwards(rig: Rig) -> None:
    wait_until(lambda: total(rig.vm.machine.ram.extents()) > WORKING_SET)
    precopy = rig.precopy(Parameters(downtime_limit=LIMIT, max_bandwidth=SLOW))
    precopy.run(prepared)
    sent = rig.wire.stream.bytes_sent
    precopy.top_up()
    assert rig.wire.stream.bytes_sent == sent
    assert precopy.sent.note
    assert total(rig.sync.dirty()) >= rig.remaining[-1] > MIB


def test_the_limit_holds_and_a_cancel_ends_the_wait_for_it(rig: Rig) -> None:
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
    # The limit alone would make it wait for minutes; the cancel ends that.
    rig.cancelled.set()
    thread.join(TIMEOUT)
    assert not thread.is_alive()
    assert "cancelled" in str(failed[0])
    assert rig.wire.stream.bytes_sent < 64 << 10


def test_the_last_decision_is_taken_when_the_destination_is_prepared(rig: Rig) -> None:
    """What became dirty meanwhile takes another round if it is too much."""
    rig.vm.guest.set_dirty_rate(0)
    start, _ = rig.vm.guest.layout.dirty_memory
    much = 96 * MIB

    def prepare() -> bytes:
        rig.vm.machine.ram.mark(start, much)
        return b"costs"

    precopy = rig.precopy(Parameters(downtime_limit=4))
    precopy.run(prepare)
    assert rig.known.learned == [b"costs"]
    first, meanwhile, last = rig.remaining
    assert first < MIB
    assert meanwhile >= much
    assert last < MIB
    assert precopy.sent.rounds == 3
    assert precopy.sent.to_json()["reason"] == "converged"


def test_switches_over_regardless_by_default(writing: Vm, other: Vm, tmp_path: Path) -> None:
    """The VM runs over there with every page as the guest left it."""
    wait_until(lambda: total(writing.machine.ram.extents()) > WORKING_SET)
    writing.guest.start_load("light")
    limits = Parameters(deadline=TIMEOUT, downtime_limit=0, max_bandwidth=SLOW)
    migration = Migration(writing, other, "prewired", tmp_path, limits)
    migration.run()
    report = migration.source.precopy.to_json()
    assert report["reason"] in ("no-progress", "devices")
    assert report["expected_downtime_ms"] > 0
    assert "Raise --downtime-limit" in report["note"]
    wrote = other.guest.request_log()
    await_work(other, 20)
    assert wrote.corrupted == 0
    check_request_log(other)


@pytest.mark.parametrize("auto_converge", [False, True])
def test_an_abort_leaves_the_vm_where_it_is(
    vm: Vm, other: Vm, tmp_path: Path, *, auto_converge: bool
) -> None:
    limits = Parameters(
        deadline=TIMEOUT, downtime_limit=0, on_no_converge="abort", auto_converge=auto_converge
    )
    migration = Migration(vm, other, "split", tmp_path, limits)
    with pytest.raises(MigrationError, match=r"a downtime of .* the limit is 0\.0 ms"):
        migration.run()
    assert isinstance(migration.received[0], MigrationError)
    assert vm.machine.gate.throttle.percent == 0
    assert not vm.machine.paused
    await_work(vm)
    check_request_log(vm)


def test_reports_what_it_expects(vm: Vm, other: Vm, tmp_path: Path) -> None:
    """How near that is to what the migration takes depends on the machine's other load."""
    migration = Migration(vm, other, "qemu-2021", tmp_path, Parameters(deadline=TIMEOUT))
    migration.run()
    assert migration.source.precopy.expected_ns > 0
    passes = [data for name, data in migration.events.seen if name == "MIGRATION_PASS"]
    assert passes
    assert all("expected-downtime" in data for data in passes)


RUNS = st.lists(st.tuples(st.integers(0, 50), st.integers(1, 20)), max_size=20)


@given(lengths=RUNS, size=st.integers(1, 30))
def test_pieces_are_the_same_memory_in_the_same_order(
    lengths: list[tuple[int, int]], size: int
) -> None:
    runs, at = [], 0
    for gap, length in lengths:
        at += gap + 1
        runs.append((at * 4096, length * 4096))
        at += length
    groups = list(pieces(runs, size * 4096))
    assert all(total(group) == size * 4096 for group in groups[:-1])
    assert all(0 < total(group) <= size * 4096 for group in groups[-1:])

    def flat(some: list[tuple[int, int]]) -> list[int]:
        return [page for gpa, length in some for page in range(gpa, gpa + length, 4096)]

    assert flat([run for group in groups for run in group]) == flat(runs)
