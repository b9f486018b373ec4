"""A system reset: all devices are set up anew, and one that fails does not hold up the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.vm.reset import reset_devices
from tests.emu.migration.hosts import await_requests, check_request_log
from tests.timeouts import TIMEOUT

if TYPE_CHECKING:
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


def test_a_device_without_a_back_end_is_lost_and_can_be_reconnected(
    vm: Vm, hosts: tuple[Host, Host]
) -> None:
    """Its rings are set up for the next back-end; the others work."""
    with vm.reconnect.paused():
        hosts[0].kill("blk1")
        reset_devices(vm)
        assert list(vm.reconnect.lost) == ["blk1"]
        (lost,) = (device for device in vm.devices if device.name == "blk1")
        assert lost.configured_rings()
        assert not any(ring.started for ring in lost.rings)
        others = [device for device in vm.devices if device is not lost]
        assert all(ring.started for device in others for ring in device.rings)
        hosts[0].restart("blk1")
    vm.guest.resume_load()
    vm.reconnect.await_all(TIMEOUT)
    assert not vm.reconnect.lost
    await_requests(vm)
    check_request_log(vm)
