"""A whole VM, from power-on to power-off."""
# ruff: noqa: D103 - the names describe them

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from devices.blk import VhostUserBlk
from emu.config.costs import NATIVE
from emu.vm.vm import Vm
from tests.emu.migration.hosts import (
    SPEC,
    Host,
    await_requests,
    check_request_log,
    loaded_vm,
    without_inflight,
)
from tests.timeouts import TIMEOUT
from tests.waiting import wait_until
from vhost_user.errors import VhostUserError
from vhost_user.frontend import FrontendConnection

if TYPE_CHECKING:
    from contextlib import ExitStack
    from pathlib import Path


def test_devices_start_before_the_vcpus_run(hosts: tuple[Host, Host], owned: ExitStack) -> None:
    vm = hosts[0].vm()
    owned.callback(vm.close)
    observed: list[tuple[bool, bool]] = []

    def observe() -> None:
        started = all(ring.started for device in vm.devices for ring in device.rings)
        observed.append((started, vm.machine.paused))

    assert not any(device.configured_rings() for device in vm.devices)
    vm.boot(observe)
    assert observed == [(True, True)]
    assert not vm.machine.paused


def test_the_dirty_log_covers_all_of_memory(vm: Vm) -> None:
    assert vm.log_pages * 4096 == max(r.gpa + r.size for r in vm.machine.ram.regions)
    assert vm.log_pages * 4096 >= SPEC.memory_bytes


def test_stopped_devices_start_again_where_they_stopped(vm: Vm) -> None:
    vm.pause_vcpus()
    vm.stop_devices()
    assert not any(ring.started for device in vm.devices for ring in device.rings)
    vm.start_devices()
    assert all(ring.started for device in vm.devices for ring in device.rings)
    vm.resume_vcpus()
    await_requests(vm)
    check_request_log(vm)


@pytest.mark.parametrize("accel", ["soft", "kvm"], indirect=True)
def test_the_notifiers_stay_assigned_while_the_devices_are_stopped(vm: Vm) -> None:
    """A request that is submitted meanwhile is served after the start."""
    before = vm.machine.commits
    assert vm.guest.quiesce(TIMEOUT) == 0
    vm.pause_vcpus()
    vm.stop_devices()
    disk = vm.guest.disks.queues[0]
    enough = disk.completed() + 1
    disk.submit_one()
    vm.start_devices()
    vm.resume_vcpus()
    wait_until(lambda: disk.completed() >= enough)
    assert vm.machine.commits == before
    check_request_log(vm)


@pytest.mark.parametrize("victim", ["net0", "blk0"])
def test_recovery_loses_only_a_device_without_a_back_end(
    vm: Vm, hosts: tuple[Host, Host], victim: str
) -> None:
    vm.reconnect.pause()
    vm.pause_vcpus()
    hosts[0].kill(victim)
    with pytest.raises(VhostUserError, match=victim):
        vm.stop_devices()
    vm.recover_devices()
    assert list(vm.reconnect.lost) == [victim]
    assert all(r.started for d in vm.devices if d.name != victim for r in d.rings)


@pytest.mark.parametrize("index", range(len(SPEC.devices)))
def test_a_handover_state_matches_until_the_guest_changes_a_device(vm: Vm, index: int) -> None:
    state = vm.handover_state()
    assert vm.still_matches(state)
    vm.reset_device(index)
    assert not vm.still_matches(state)


@pytest.mark.slow
def test_a_vm_whose_back_end_is_missing_is_not_built(
    hosts: tuple[Host, Host], tmp_path: Path
) -> None:
    paths = {**hosts[0].sockets, "blk1": str(tmp_path / "missing")}
    with pytest.raises(VhostUserError, match="blk1"):
        Vm(SPEC, accel="soft", costs=NATIVE, backends=paths)


def test_back_ends_that_are_connected_already_are_used(
    hosts: tuple[Host, Host], owned: ExitStack
) -> None:
    name, path = "blk0", hosts[0].sockets["blk0"]
    connection = FrontendConnection.connect(path, name=name, timeout=TIMEOUT)
    back_end = VhostUserBlk.negotiate(connection, TIMEOUT)
    vm = Vm(
        SPEC,
        accel="soft",
        costs=NATIVE,
        backends=hosts[0].sockets,
        connected={name: back_end},
    )
    owned.callback(vm.close)
    assert [d.name for d in vm.devices if d.connection is connection] == [name]
    vm.boot()
    vm.guest.start_load("heavy")
    await_requests(vm)


def test_power_off_is_idempotent(hosts: tuple[Host, Host]) -> None:
    vm = hosts[0].vm()
    vm.boot()
    vm.close()
    vm.close()
    assert not any(device.connected for device in vm.devices)


@pytest.mark.parametrize("load", ["light", "heavy"])
def test_a_disk_without_an_inflight_region_is_drained(
    hosts: tuple[Host, Host], owned: ExitStack, monkeypatch: pytest.MonkeyPatch, load: str
) -> None:
    """When `drain_requests` returns, no request is in flight; the others need none of it.

    The light load's last request is kicked at the next tick, which the pause delays.
    """
    without_inflight(monkeypatch)
    vm = loaded_vm(hosts[0], owned, load)
    assert vm.drains
    assert [device.drains for device in vm.devices] == [False, True, True]
    vm.pause_vcpus()
    vm.drain_requests(TIMEOUT)
    for device in vm.devices:
        if device.drains:
            assert all(available == used for _, available, used in vm._ring_indices(device))
    vm.resume_vcpus()
    await_requests(vm)
    check_request_log(vm)


def test_a_disk_that_does_not_complete_its_requests_is_named(
    hosts: tuple[Host, Host], owned: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the time-out; the VM can run on."""
    without_inflight(monkeypatch)
    vm = loaded_vm(hosts[0], owned, "heavy")
    release = hosts[0].hold("blk1")
    owned.callback(release.set)
    wait_until(lambda: vm._not_completed(vm.devices[2]), "a request is in flight")
    vm.pause_vcpus()
    with pytest.raises(VhostUserError, match=r"blk1: .* has not completed \d+ requests within"):
        vm.drain_requests(0.05)
    release.set()
    vm.drain_requests(TIMEOUT)
    vm.resume_vcpus()
    await_requests(vm)
    check_request_log(vm)


def test_devices_with_an_inflight_region_are_not_drained(vm: Vm) -> None:
    assert not vm.drains
    vm.drain_requests(0)
