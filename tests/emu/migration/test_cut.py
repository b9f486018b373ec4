"""A migration stream that breaks at any moment: the VM runs on at exactly one side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from emu.config.migration_parameters import Parameters
from emu.errors import MigrationError
from emu.migration import multifd
from emu.migration.stream import Kind, MigrationStream
from tests import slow
from tests.emu.migration.certificates import Authority
from tests.emu.migration.hosts import Migration, await_requests, check_request_log
from tests.timeouts import TIMEOUT
from vhost_user.errors import VhostUserError

if TYPE_CHECKING:
    from pathlib import Path

    from emu.vm.vm import Vm

PARAMETERS = Parameters(timeout=TIMEOUT, streams=2)


def _migration(vm: Vm, other: Vm, folder: Path) -> Migration:
    """With TLS, two channels and completion reports."""
    ca = Authority(folder)
    tls = ca.credentials("source"), ca.credentials("destination")
    return Migration(vm, other, "prewired", folder, PARAMETERS, tls=tls, report=True)


def _cut(monkeypatch: pytest.MonkeyPatch, when: Kind) -> list[Kind]:
    """Shut down the socket of the first section of this kind, as soon as it is received."""
    receive = MigrationStream.receive
    cut: list[Kind] = []

    def received(stream: MigrationStream) -> tuple[Kind, int, bytes]:
        section = receive(stream)
        if section[0] is when and not cut:
            cut.append(when)
            stream.interrupt()
        return section

    monkeypatch.setattr(MigrationStream, "receive", received)
    monkeypatch.setattr(multifd, "MIN_PARALLEL_BYTES", 1)
    return cut


@pytest.mark.parametrize(
    "when",
    slow.all_but(
        {Kind.DEVICES, Kind.SWITCHOVER, Kind.READY},
        [
            Kind.HELLO,
            Kind.WELCOME,
            Kind.JOIN,
            Kind.DEVICES,
            Kind.RAM,
            Kind.BARRIER,
            Kind.PREPARED,
            Kind.SWITCHOVER,
            Kind.READY,
        ],
    ),
    ids=lambda kind: kind.name,
)
def test_before_go_the_vm_stays_at_the_source(
    vm: Vm, other: Vm, tmp_path: Path, when: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It loses no request."""
    migration = _migration(vm, other, tmp_path)
    cut = _cut(monkeypatch, when)
    with pytest.raises(MigrationError):
        migration.run()
    assert cut
    assert isinstance(migration.received[0], MigrationError)
    assert not vm.machine.paused
    assert other.machine.paused
    await_requests(vm)
    check_request_log(vm)


@pytest.mark.parametrize(
    "when", [Kind.GO, Kind.RUNNING, Kind.COMPLETION], ids=lambda kind: kind.name
)
def test_from_go_on_the_vm_runs_at_the_destination(
    vm: Vm, other: Vm, tmp_path: Path, when: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only figures are lost."""
    migration = _migration(vm, other, tmp_path)
    cut = _cut(monkeypatch, when)
    migration.run()
    assert cut
    assert migration.received == [None]
    assert migration.source.destination_report == {} or migration.destination.source_report == {}
    assert vm.machine.paused
    await_requests(other)
    check_request_log(other)


@pytest.mark.parametrize(
    "error", [VhostUserError("unexpected"), RuntimeError("unexpected")], ids=["expected", "any"]
)
def test_no_error_after_go_starts_the_vm_at_the_source(
    vm: Vm, other: Vm, tmp_path: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even one of our own mistakes: the guest would run twice on the same disks."""
    migration = _migration(vm, other, tmp_path)
    receive = MigrationStream.receive

    def fail_at_running(stream: MigrationStream) -> tuple[Kind, int, bytes]:
        section = receive(stream)
        if section[0] is Kind.RUNNING:
            raise error
        return section

    monkeypatch.setattr(MigrationStream, "receive", fail_at_running)
    with pytest.raises(type(error), match="unexpected"):
        migration.run()
    assert migration.received == [None]
    assert vm.machine.paused
    await_requests(other)
    check_request_log(other)


def test_without_a_cut_both_sides_have_the_other_ones_report(
    vm: Vm, other: Vm, tmp_path: Path
) -> None:
    """The figures of the whole migration, and the source's request counters."""
    migration = _migration(vm, other, tmp_path)
    migration.run()
    there: dict[str, Any] = migration.source.destination_report
    here = migration.destination.source_report
    start = migration.source.timeline.marks["pause_start_ns"]
    end = migration.destination.timeline.marks["running_ns"]
    assert there["downtime_ns"] == here["downtime_ns"] == end - start
    assert there["downtime_error_ns"] is here["downtime_error_ns"] is None
    assert there["guest_gap_ns"] == migration.destination.guest_gap_ns
    assert len(there["spans"]) == len(migration.destination.timeline.spans)
    assert (here["served"], here["strategy"]) == (7, "prewired")
    assert here["precopy"]["bytes"] > 0


def test_the_offset_of_different_clocks_is_estimated(
    vm: Vm, other: Vm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock is the same one here, so the estimated offset must be within its error bound."""
    migration = _migration(vm, other, tmp_path)
    migration._hello["clock"] = "another machine's"
    monkeypatch.setattr("emu.migration.handshake.same_clock", lambda _welcome: False)
    migration.run()
    there = migration.source.destination_report
    start = migration.source.timeline.marks["pause_start_ns"]
    truth = migration.destination.timeline.marks["running_ns"] - start
    assert abs(there["downtime_ns"] - truth) <= there["downtime_error_ns"]
    assert there["downtime_error_ns"] > 0
    assert migration.destination.source_report["downtime_ns"] == there["downtime_ns"]
    await_requests(other)
    check_request_log(other)
