"""A system reset: all devices are set up anew, and one that fails does not hold up the others."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest

from emu.vm.reset import reset_devices
from tests.emu.early_stops import reply_early
from tests.emu.migration.hosts import (
    await_disk,
    await_packets,
    await_requests,
    check_request_log,
    loaded_vm,
    without_inflight,
)
from tests.timeouts import TIMEOUT
from tests.waiting import wait_until

if TYPE_CHECKING:
    from contextlib import ExitStack

    from emu.vm.vm import Vm
    from tests.emu.migration.hosts import Host


def test_every_ring_starts_anew_and_the_guest_works_on(vm: Vm, hosts: tuple[Host, Host]) -> None:
    """Each ring is stopped and started once."""
    before = {device.name: hosts[0].ring_events(device.name) for device in vm.devices}
    with vm.reconnect.paused():
        reset_devices(vm)
    for device in vm.devices:
        rings = len(device.rings)
        started, stopped = before[device.name]
        assert hosts[0].ring_events(device.name)[1] == stopped + rings
        assert all(ring.started for ring in device.rings)
        assert started >= 1
    vm.guest.resume_load()
    await_requests(vm)
    check_request_log(vm)


@pytest.mark.parametrize("victim", ["blk1", "net0"])
def test_a_device_without_a_back_end_is_lost_and_can_be_reconnected(
    vm: Vm, hosts: tuple[Host, Host], victim: str
) -> None:
    """Its driver sets it up when the next back-end has answered; the others work."""
    with vm.reconnect.paused():
        hosts[0].kill(victim)
        reset_devices(vm)
        assert list(vm.reconnect.lost) == [victim]
        (lost,) = (device for device in vm.devices if device.name == victim)
        assert not lost.configured_rings()
        others = [device for device in vm.devices if device is not lost]
        assert all(ring.started for device in others for ring in device.rings)
        hosts[0].restart(victim)
    vm.guest.resume_load()
    vm.reconnect.await_all(TIMEOUT)
    assert not vm.reconnect.lost
    assert all(ring.started for ring in lost.rings)
    await_disk(vm, 1, 0)
    await_packets(vm, 20)
    check_request_log(vm)


@pytest.mark.parametrize("case", ["replies early", "replies late", "has no region"])
def test_rings_are_set_up_when_no_back_end_writes_there_any_more(
    hosts: tuple[Host, Host], owned: ExitStack, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    """A back-end that a reset has waited for in vain may complete its requests at any time."""
    if case == "has no region":
        without_inflight(monkeypatch)
    elif case == "replies early":
        reply_early(monkeypatch, suspends=False)
    vm = loaded_vm(hosts[0], owned, "heavy")
    release = hosts[0].hold_requests()
    owned.callback(release.set)
    disks = [device for device in vm.devices if device.device_class == "blk"]
    for disk in disks:
        wait_until(partial(hosts[0].requests_taken, disk.name))
    vm.timeout = 0.2
    with vm.reconnect.paused():
        reset_devices(vm)
        assert list(vm.reconnect.lost) == [disk.name for disk in disks]
        assert all(ring.started for ring in vm.devices[0].rings)
        release.set()
        for disk in disks:
            wait_until(lambda disk=disk: not hosts[0].requests_taken(disk.name))  # type: ignore[misc]
        vm.timeout = TIMEOUT
    vm.guest.resume_load()
    vm.reconnect.await_all(TIMEOUT)
    for number in range(len(disks)):
        await_disk(vm, number, 0)
    check_request_log(vm)


@pytest.mark.parametrize("load", ["light", "heavy"])
def test_requests_that_no_inflight_region_records_are_completed_before_a_reset(
    hosts: tuple[Host, Host], owned: ExitStack, monkeypatch: pytest.MonkeyPatch, load: str
) -> None:
    """A back-end might complete them in the rings of after it."""
    without_inflight(monkeypatch)
    vm = loaded_vm(hosts[0], owned, load)
    with vm.reconnect.paused():
        reset_devices(vm)
        assert not vm.reconnect.lost
        assert not vm.machine.paused
    vm.guest.resume_load()
    await_requests(vm)
    check_request_log(vm)


def test_a_device_that_does_not_complete_its_requests_is_lost_at_a_reset(
    hosts: tuple[Host, Host], owned: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the time-out; the others are reset, and work."""
    without_inflight(monkeypatch)
    vm = loaded_vm(hosts[0], owned, "heavy")
    release = hosts[0].hold("blk1")
    owned.callback(release.set)
    wait_until(lambda: vm._not_completed(vm.devices[2]), "a request is in flight")
    vm.timeout = 0.5
    with vm.reconnect.paused():
        reset_devices(vm)
        assert list(vm.reconnect.lost) == ["blk1"]
        assert not vm.machine.paused
        assert all(ring.started for device in vm.devices[:2] for ring in device.rings)
        vm.guest.resume_load()
        await_requests(vm)
