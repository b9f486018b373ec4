"""A system reset: the guest's drivers reset all devices and set them up anew, as at a reboot."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vhost_user.errors import VhostUserError

if TYPE_CHECKING:
    from emu.vm.vm import Vm


def reset_devices(vm: Vm) -> None:
    """Reset all devices and set them up anew, while reconnecting is paused and the vCPUs run.

    A back-end might complete requests in flight in the rings as set up again. Where no inflight
    region records them, they are awaited before the stop (`VhostDevice.drains`); elsewhere those
    that are left after the stop are (`Vm.reset_device`).

    A device whose back-end fails meanwhile, or does not complete its requests in time, is lost and
    does not delay the others. That back-end may go on writing to the memory of the rings, so the
    driver does not use it again before a back-end has answered on a new connection
    (`Vm._reconnect_device`).
    """
    try:
        if vm.drains:
            vm.pause_vcpus()
            _drain(vm)
        for device in vm.devices:
            try:
                vm.reset_device(vm.slot(device.name))
            except VhostUserError as error:
                if device.name not in vm.reconnect.lost:
                    vm.reconnect.mark_lost(device, error)
                device.forget_rings()
        vm.pause_vcpus()
        stopped = [device for device in vm.devices if device.name not in vm.reconnect.lost]
        for device in stopped:
            vm.guest.boot_device(vm.slot(device.name))
    finally:
        vm.resume_vcpus()
    for device in stopped:
        try:
            vm.activate_device(vm.slot(device.name))
        except VhostUserError as error:
            vm.reconnect.mark_lost(device, error)


def _drain(vm: Vm) -> None:
    """Wait for the requests in flight; a device that does not complete them is lost."""
    while vm.drains:
        try:
            vm.drain_requests(vm.timeout)
        except VhostUserError as error:
            device = next(device for device in vm.devices if device.name == error.device)
            vm.reconnect.mark_lost(device, error)
        else:
            return
