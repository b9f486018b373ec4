"""Whole migrations between two VMs, and the way back from those that fail."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TYPE_CHECKING

import pytest

from devices.procedure import Phase
from emu.errors import CancelledError, MigrationError
from emu.migration.handshake import shape
from emu.strategies.registry import STRATEGIES, make
from tests.emu.migration.sites import (
    MOVES,
    Migration,
    Site,
    await_disk,
    await_work,
    check_request_log,
    wait_until,
)
from tests.timeouts import TIMEOUT
from vhost_user.errors import VhostUserError

if TYPE_CHECKING:
    from contextlib import ExitStack
    from pathlib import Path

    from emu.vm.vm import Vm


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_migrates_under_load(
    vm: Vm, other: Vm, strategy: str, tmp_path: Path, owned: ExitStack
) -> None:
    """The guest goes on over there, and misses nothing."""
    migration = Migration(vm, other, strategy, tmp_path, owned=owned)
    migration.run()
    assert migration.received == [None]
    assert vm.machine.paused
    assert not migration.there.machine.paused
    assert migration.source.requests_in_flight > 0
    await_work(migration.there)
    check_request_log(migration.there)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_downtimes_agree(
    vm: Vm, other: Vm, strategy: str, tmp_path: Path, owned: ExitStack
) -> None:
    """The spans lie in the blackout, which explains the gap in the guest's heartbeat."""
    migration = Migration(vm, other, strategy, tmp_path, owned=owned)
    migration.run()
    start = migration.source.timeline.marks["pause_start_ns"]
    end = migration.destination.timeline.marks["running_ns"]
    assert start < end
    await_work(migration.there)
    age = start - migration.source.timeline.marks["last_beat_ns"]
    # A busy host may let either clock be read late; a figure that is wrong is off by more.
    assert 0 < migration.destination.guest_gap_ns <= end - start + max(0, age) + 500_000_000
    spans = migration.source.timeline.spans + migration.destination.timeline.spans
    phases = {span.phase for span in spans if span.in_blackout}
    assert {phase.side for phase in phases} == {"src", "dst"}
    inside = [span for span in spans if span.in_blackout]
    assert all(start <= span.start <= span.end <= end for span in inside)
    moved_out = {Phase.DISABLE_HOST_NOTIFY, Phase.ENABLE_HOST_NOTIFY, Phase.SET_MEM_TABLE}
    assert bool(moved_out & phases) is not make(strategy).prepares_ahead


def test_rings_are_never_started_on_both_sides(vm: Vm, other: Vm, sites: tuple[Site, Site]) -> None:
    """While the VM runs here, the image's lock keeps the other side's disks from starting."""
    other.guest.attach()
    for index, device in enumerate(other.devices):
        device.set_up_rings(other.guest.ring_addresses(index))
    other.start_devices()
    for disk in ("blk0", "blk1"):
        assert sites[0].active(disk)
        assert not sites[1].active(disk)
    await_work(vm)
    vm.pause_vcpus()
    vm.stop_devices()
    other.signal_all_rings()
    for disk in ("blk0", "blk1"):
        assert not sites[0].active(disk)
        wait_until(partial(sites[1].active, disk))


def test_another_shape_is_refused_by_name(vm: Vm, other: Vm, tmp_path: Path) -> None:
    """Nothing is touched, and the source runs on."""
    migration = Migration(vm, other, "split", tmp_path)
    with pytest.raises(MigrationError, match="vcpus: 7 at the source, 3 at"):
        migration.run(spec={**shape(vm.spec, "soft"), "vcpus": 7})
    assert isinstance(migration.received[0], MigrationError)
    await_work(vm)
    check_request_log(vm)


@pytest.mark.parametrize("strategy", MOVES)
def test_destination_back_end_dies(
    vm: Vm, other: Vm, sites: tuple[Site, Site], strategy: str, tmp_path: Path
) -> None:
    """The source takes the VM back, and nothing is lost."""
    sites[1].kill("blk1")
    migration = Migration(vm, other, strategy, tmp_path)
    with pytest.raises(MigrationError, match="blk1"):
        migration.run()
    assert isinstance(migration.received[0], VhostUserError)
    assert not vm.machine.paused
    await_work(vm)
    check_request_log(vm)
    assert not any(device.logging for device in vm.devices)


@pytest.mark.parametrize("strategy", MOVES)
@pytest.mark.parametrize("victim", ["net0", "blk1"])
def test_source_back_end_dies_at_the_stop(
    vm: Vm,
    other: Vm,
    sites: tuple[Site, Site],
    strategy: str,
    victim: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It costs its own device; the others go on, and its requests stay where they are."""
    migration = Migration(vm, other, strategy, tmp_path)
    pause = vm.pause_vcpus

    def pause_and_kill(deadline: float) -> None:
        pause(deadline)
        sites[0].kill(victim)

    monkeypatch.setattr(vm, "pause_vcpus", pause_and_kill)
    with pytest.raises((VhostUserError, MigrationError), match=victim):
        migration.run()
    assert list(migration.source.lost) == [victim]
    assert not vm.machine.paused
    for disk in vm.guest.disks.queues:
        if f"blk{disk.place.number}" != victim:
            await_disk(vm, disk.place.number, disk.place.position)
    if victim != "net0":
        received = vm.guest.request_log().packets_received
        wait_until(lambda: vm.guest.request_log().packets_received > received + 50)
    totals = vm.guest.request_log()
    assert totals.duplicated == totals.corrupted == totals.errors == 0


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_no_failure_after_running_takes_the_vm_back(
    vm: Vm,
    other: Vm,
    strategy: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    owned: ExitStack,
) -> None:
    """Once it runs over there, nothing may start it here again."""
    migration = Migration(vm, other, strategy, tmp_path, owned=owned)

    def fail(_tasks: object, _stage: object) -> None:
        raise MigrationError("finish", "on purpose")

    monkeypatch.setattr(migration.source._strategy, "finish", fail)
    with pytest.raises(MigrationError, match="on purpose"):
        migration.run()
    assert vm.machine.paused
    assert not migration.there.machine.paused
    await_work(migration.there)
    check_request_log(migration.there)


def test_cancel_before_the_handshake(vm: Vm, other: Vm, tmp_path: Path) -> None:
    """The VM runs on here, and the destination goes on waiting for a source."""
    migration = Migration(vm, other, "prewired", tmp_path)
    migration.source.cancel()
    with contextlib.closing(migration.listener) as listener:
        with pytest.raises(CancelledError):
            migration.run_source()
        with pytest.raises(MigrationError, match="no source has connected"):
            listener.accept(timeout=TIMEOUT, connect_timeout=0)
    await_work(vm)
    check_request_log(vm)


def test_back_and_forth(vm: Vm, sites: tuple[Site, Site], tmp_path: Path) -> None:
    """A VM that has been migrated can be migrated again."""
    here, turn = vm, 0
    for strategy in ("prewired", "split", "prewired"):
        turn = 1 - turn
        there = sites[turn].vm()
        Migration(here, there, strategy, tmp_path).run()
        here.close()
        here = there
        await_work(here)
    try:
        check_request_log(here)
    finally:
        here.close()
