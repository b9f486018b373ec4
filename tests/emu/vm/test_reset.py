"""The guest's drivers reset all devices and set them up anew."""
# ruff: noqa: D103 - the names describe them

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.vm.reset import reset_devices
from tests.emu.migration.hosts import Host, await_disk, await_requests, check_request_log

if TYPE_CHECKING:
    from emu.vm.vm import Vm


def test_all_devices_are_set_up_anew_and_work(vm: Vm) -> None:
    before = [device.setups for device in vm.devices]
    with vm.reconnect.paused():
        reset_devices(vm)
    vm.guest.resume_load()
    assert all(device.setups > old for device, old in zip(vm.devices, before, strict=True))
    assert all(ring.started for device in vm.devices for ring in device.rings)
    await_requests(vm)
    check_request_log(vm)


def test_a_lost_device_is_set_up_for_the_back_end_that_comes(
    vm: Vm, hosts: tuple[Host, Host]
) -> None:
    with vm.reconnect.paused():
        hosts[0].kill("blk0")
        reset_devices(vm)
        lost = next(device for device in vm.devices if device.name == "blk0")
        assert list(vm.reconnect.lost) == ["blk0"]
        assert lost.configured() == lost.rings
        assert not any(ring.started for ring in lost.rings)
        hosts[0].restart("blk0")
    vm.guest.resume_load()
    await_disk(vm, 0, 0)
    await_requests(vm)
    check_request_log(vm)
