"""Migrations between two VMs, and the roll-back of those that fail."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TYPE_CHECKING

import pytest

from devices.procedure import Phase
from emu.errors import CancelledError, MigrationError, Operation
from emu.migration.handshake import required_match
from emu.strategies.registry import STRATEGIES, make
from emu.vm.reset import reset_devices
from tests import slow
from tests.emu.migration.hosts import (
    PARTLY_USED,
    QUICK,
    RING_STOPPING_STRATEGIES,
    Host,
    Migration,
    await_disk,
    await_packets,
    await_requests,
    check_request_log,
    check_started,
)
from tests.timeouts import TIMEOUT
from tests.waiting import wait_until
from vhost_user.errors import VhostUserError

if TYPE_CHECKING:
    from contextlib import ExitStack
    from pathlib import Path

    from emu.vm.vm import Vm


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_migrates_under_load(
    vm: Vm, other: Vm, strategy: str, tmp_path: Path, owned: ExitStack
) -> None:
    """The guest runs on at the destination and loses no request."""
    migration = Migration(vm, other, strategy, tmp_path, owned=owned)
    migration.run()
    assert migration.received == [None]
    assert vm.machine.paused
    assert not migration.destination_vm.machine.paused
    assert migration.source.requests_in_flight > 0
    await_requests(migration.destination_vm)
    check_request_log(migration.destination_vm)


EVERY_USE = pytest.mark.parametrize("spec", PARTLY_USED.values(), ids=PARTLY_USED, indirect=True)


@EVERY_USE
@pytest.mark.parametrize("strategy", slow.all_but(QUICK, STRATEGIES))
def test_a_guest_that_uses_some_rings_migrates(
    vm: Vm, other: Vm, strategy: str, tmp_path: Path, owned: ExitStack
) -> None:
    """Under load: the same rings are started on both sides, and nothing is lost."""
    check_started(vm)
    migration = Migration(vm, other, strategy, tmp_path, owned=owned)
    migration.run()
    there = migration.destination_vm
    check_started(there)
    await_requests(there)
    if there.guest.nics.queues:
        await_packets(there, 50)
    check_request_log(there)


@EVERY_USE
def test_a_guest_that_uses_some_rings_loses_its_back_end(vm: Vm, hosts: tuple[Host, Host]) -> None:
    """The same rings are started on the next one, and go on."""
    for victim in ("blk1", "net0"):
        hosts[0].kill(victim)
        wait_until(lambda victim=victim: victim in vm.reconnect.lost)  # type: ignore[misc]
        hosts[0].restart(victim)
        vm.reconnect.await_all(TIMEOUT)
        assert not vm.reconnect.lost
    check_started(vm)
    await_requests(vm)
    check_request_log(vm)


@EVERY_USE
def test_a_guest_that_uses_some_rings_is_reset(vm: Vm) -> None:
    """Its drivers set up the same rings again."""
    with vm.reconnect.paused():
        assert vm.guest.quiesce(TIMEOUT) == 0
        reset_devices(vm)
    vm.guest.start_load("heavy")
    check_started(vm)
    await_requests(vm)
    check_request_log(vm)


@pytest.mark.parametrize("spec", [PARTLY_USED["some"]], indirect=True)
def test_a_destination_whose_guest_uses_other_rings_is_another_vm(
    vm: Vm, tmp_path: Path, owned: ExitStack
) -> None:
    """The handshake refuses it: the drivers' state in guest memory depends on the rings in use."""
    host = Host("c", tmp_path, PARTLY_USED["none"])
    owned.callback(host.close)
    other = host.vm()
    owned.callback(other.close)
    text = (
        r"net0x4 \(used: 2-3\), blk0x4 \(used: 1,3\), blk1x4 \(used: 1,3\) at the source only, "
        r"net0x4 \(used: none\)"
    )
    with pytest.raises(MigrationError, match=text):
        Migration(vm, other, "split", tmp_path, owned=owned).run()
    await_requests(vm)
    check_request_log(vm)


@pytest.mark.parametrize("strategy", slow.all_but(QUICK, STRATEGIES))
def test_downtimes_agree(
    vm: Vm, other: Vm, strategy: str, tmp_path: Path, owned: ExitStack
) -> None:
    """The spans lie in the blackout, and the gap in the guest's heartbeat is around it."""
    migration = Migration(vm, other, strategy, tmp_path, owned=owned)
    migration.run()
    start = migration.source.timeline.marks["pause_start_ns"]
    end = migration.destination.timeline.marks["running_ns"]
    assert start < end
    await_requests(migration.destination_vm)
    gap = migration.destination.guest_gap_ns
    # From the last beat, which may come until the vCPUs are paused, to the first one.
    assert gap <= end - min(start, migration.source.timeline.marks["last_beat_ns"])
    spans = migration.source.timeline.spans + migration.destination.timeline.spans
    phases = {span.phase for span in spans if span.in_blackout}
    (pause,) = (span for span in spans if span.phase is Phase.PAUSE_VCPUS)
    (resume,) = (span for span in spans if span.phase is Phase.RESUME_VCPUS)
    assert gap >= resume.start - pause.end > 0
    assert {phase.side for phase in phases} == {"src", "dst"}
    inside = [span for span in spans if span.in_blackout]
    assert all(start <= span.start <= span.end <= end for span in inside)
    moved_out = {Phase.DISABLE_HOST_NOTIFY, Phase.ENABLE_HOST_NOTIFY, Phase.SET_MEM_TABLE}
    assert bool(moved_out & phases) is not make(strategy).prepares_ahead


def test_rings_are_never_started_on_both_sides(vm: Vm, other: Vm, hosts: tuple[Host, Host]) -> None:
    """While the VM runs at the source, the lock of the image stops the destination's rings."""
    other.guest.attach()
    for index, device in enumerate(other.devices):
        device.set_up_rings(other.guest.ring_addresses(index))
    other.start_devices()
    for disk in ("blk0", "blk1"):
        assert hosts[0].active(disk)
        assert not hosts[1].active(disk)
    await_requests(vm)
    vm.pause_vcpus()
    vm.stop_devices()
    other.signal_all_rings()
    for disk in ("blk0", "blk1"):
        assert not hosts[0].active(disk)
        wait_until(partial(hosts[1].active, disk))


def test_another_number_of_vcpus_is_refused(vm: Vm, other: Vm, tmp_path: Path) -> None:
    """The VM runs on at the source."""
    migration = Migration(vm, other, "split", tmp_path)
    with pytest.raises(MigrationError, match="vcpus: 7 at the source, 3 at"):
        migration.run(spec={**required_match(vm.spec, "soft"), "vcpus": 7})
    assert isinstance(migration.received[0], MigrationError)
    await_requests(vm)
    check_request_log(vm)


@pytest.mark.parametrize("strategy", slow.all_but(QUICK, RING_STOPPING_STRATEGIES))
def test_the_migration_rolls_back_when_a_back_end_of_the_destination_ends(
    vm: Vm, other: Vm, hosts: tuple[Host, Host], strategy: str, tmp_path: Path
) -> None:
    """The VM runs on at the source, and no request is lost."""
    hosts[1].kill("blk1")
    migration = Migration(vm, other, strategy, tmp_path)
    with pytest.raises(MigrationError, match="blk1"):
        migration.run()
    assert isinstance(migration.received[0], VhostUserError)
    assert not vm.machine.paused
    await_requests(vm)
    check_request_log(vm)
    assert not any(device.logging for device in vm.devices)
    assert not any(hosts[0].logs(device.name) for device in vm.devices)


@pytest.mark.parametrize("strategy", slow.all_but(QUICK, RING_STOPPING_STRATEGIES))
@pytest.mark.parametrize("victim", slow.all_but({"blk1"}, ["net0", "blk1"]))
def test_a_back_end_of_the_source_that_ends_at_the_stop_is_lost(
    vm: Vm,
    other: Vm,
    hosts: tuple[Host, Host],
    strategy: str,
    victim: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The other devices continue; the lost one's requests stay outstanding."""
    migration = Migration(vm, other, strategy, tmp_path)
    pause = vm.pause_vcpus

    def pause_and_kill(timeout: float) -> None:
        pause(timeout)
        hosts[0].kill(victim)

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


@pytest.mark.parametrize("strategy", slow.all_but(QUICK, STRATEGIES))
def test_no_failure_after_running_resumes_the_vm_at_the_source(
    vm: Vm,
    other: Vm,
    strategy: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    owned: ExitStack,
) -> None:
    """The VM runs at the destination, so it must not run at the source again."""
    migration = Migration(vm, other, strategy, tmp_path, owned=owned)

    def fail(_tasks: object, _stage: object) -> None:
        raise MigrationError(Operation.COMPLETION, "on purpose")

    monkeypatch.setattr(migration.source.strategy, "finish", fail)
    migration.run()
    assert vm.machine.paused
    assert not migration.destination_vm.machine.paused
    await_requests(migration.destination_vm)
    check_request_log(migration.destination_vm)


def test_cancel_before_the_handshake(vm: Vm, other: Vm, tmp_path: Path) -> None:
    """The VM runs on at the source, and the destination still waits for a source."""
    migration = Migration(vm, other, "prewired", tmp_path)
    migration.source.cancel()
    with contextlib.closing(migration.listener) as listener:
        with pytest.raises(CancelledError):
            migration.run_source()
        with pytest.raises(MigrationError, match="no source has connected"):
            listener.accept(timeout=TIMEOUT, connect_timeout=0)
    await_requests(vm)
    check_request_log(vm)


def test_back_and_forth(vm: Vm, hosts: tuple[Host, Host], tmp_path: Path) -> None:
    """A VM that has been migrated can be migrated again."""
    here, turn = vm, 0
    for strategy in ("prewired", "split", "prewired"):
        turn = 1 - turn
        there = hosts[turn].vm()
        Migration(here, there, strategy, tmp_path).run()
        here.close()
        here = there
        await_requests(here)
    try:
        check_request_log(here)
    finally:
        here.close()


@pytest.mark.parametrize("strategy", slow.all_but(QUICK, STRATEGIES))
def test_a_vm_that_is_stopped_stays_so(
    vm: Vm, other: Vm, hosts: tuple[Host, Host], strategy: str, tmp_path: Path, owned: ExitStack
) -> None:
    """At the destination, until it is resumed there; its devices are stopped meanwhile."""
    vm.reconnect.pause()
    vm.pause_vcpus()
    vm.stop_devices()
    migration = Migration(vm, other, strategy, tmp_path, owned=owned)
    migration.run(stopped=True)
    assert migration.received == [None]
    there = migration.destination_vm
    for side in (vm, there):
        assert side.machine.paused
        assert not any(ring.started for device in side.devices for ring in device.rings)
    assert not any(device.host_notifiers or device.guest_notifiers for device in vm.devices)
    assert not {name for name, _ in migration.events.seen} & {"STOP", "RESUME"}
    there.recover_devices()
    there.resume_vcpus()
    there.reconnect.resume()
    await_requests(there)
    check_request_log(there)


@pytest.mark.parametrize("strategy", slow.all_but(QUICK, RING_STOPPING_STRATEGIES))
def test_a_vm_that_is_stopped_stays_so_after_a_failure(
    vm: Vm, other: Vm, hosts: tuple[Host, Host], strategy: str, tmp_path: Path
) -> None:
    """At the source."""
    vm.reconnect.pause()
    vm.pause_vcpus()
    vm.stop_devices()
    hosts[1].kill("blk1")
    migration = Migration(vm, other, strategy, tmp_path)
    with pytest.raises(MigrationError, match="blk1"):
        migration.run(stopped=True)
    assert vm.machine.paused
    assert not any(ring.started for device in vm.devices for ring in device.rings)
    assert not any(hosts[0].logs(device.name) for device in vm.devices)
    vm.recover_devices()
    vm.resume_vcpus()
    vm.reconnect.resume()
    await_requests(vm)
    check_request_log(vm)
