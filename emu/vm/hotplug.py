"""Unplugs devices of a VM, and plugs them again, while the guest runs.

A slot of the bus keeps the notify addresses, vectors and rings of its device, so a device can only
be plugged into a slot of the same shape that is empty.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from devices import lifecycle
from devices.blk import VhostUserBlk
from emu.errors import EmuError
from emu.guest.layout import scratch_bytes
from vhost_user.errors import VhostUserError
from vhost_user.virtio.blk import SECTOR_SIZE

if TYPE_CHECKING:
    from devices.device import BackEnd, VhostDevice
    from emu.vm.vm import Vm


class UnplugError(EmuError):
    """The guest has not released the device in time; the device stays in use."""


def unplug(vm: Vm, device: VhostDevice, timeout: float) -> None:
    """Unplug a device while the vCPUs run, or before an incoming VM has arrived.

    The guest's driver submits no further request, waits for those in flight, and resets the device;
    then its notifiers are deassigned and its connection is closed.

    Args:
        vm: the VM.
        device: one of `Vm.devices`.
        timeout: seconds for the requests in flight.

    Raises:
        UnplugError: requests are still in flight after ``timeout``; the guest uses the device
            again.
        DeadlineError: a reconnection of the device did not end in time; the same.
    """
    slot = vm.slot(device.name)
    if not vm.machine.paused and (left := vm.guest.release_device(slot, timeout)):
        vm.guest.use_device(slot)
        raise UnplugError(f"{device.name}: {left} requests are still in flight after {timeout:g} s")
    with ExitStack() as stack:
        try:
            stack.enter_context(vm.reconnect.paused())
        except VhostUserError:
            vm.guest.use_device(slot)
            raise
        try:
            vm.drive_one(device, lifecycle.reset(device))
        except VhostUserError:
            # The back-end has failed: only the notifiers remain to be deassigned.
            device.disconnect()
            vm.drive_one(device, lifecycle.reset(device))
        vm.unplug(device)


def plug(
    vm: Vm, name: str, back_end: BackEnd, path: str, *, features: int, arriving: bool = False
) -> None:
    """Plug a device into its empty slot. If the guest runs, its driver uses it from now on.

    Args:
        vm: the VM, running or paused.
        name: the slot's name.
        back_end: of the device's class; it is closed if this fails.
        path: socket of the back-end, to reconnect.
        features: that the guest's driver uses; 0 for all that the back-end offers.
        arriving: the VM is incoming, and its rings arrive with the migration.

    Raises:
        EmuError: the back-end's disk is too small.
        VhostUserError: the back-end lacks rings or features that the guest uses, or fails.
        OSError: out of descriptors.
    """
    # The guest's disk driver checks the blocks that it has written: only the same image has them.
    keep = vm.backends.get(name) == path
    try:
        device = vm.make_device(name)
    except BaseException:
        back_end.connection.close()
        raise
    try:
        device.use(back_end)
        if features:
            device.use_features(features)
        capacity = _check_capacity(vm, device)
    except BaseException:
        vm.machine.remove_device_handler(vm.slot(name))
        device.close()
        raise
    with vm.reconnect.paused():
        vm.plug(device, path)
        try:
            if not arriving:
                _start(vm, device, keep=keep)
        except BaseException:
            device.disconnect()
            vm.drive_one(device, lifecycle.reset(device))
            vm.unplug(device)
            raise
    if capacity is not None:
        vm.guest.set_capacity(vm.spec.devices[vm.slot(name)].number, capacity)


def _start(vm: Vm, device: VhostDevice, *, keep: bool) -> None:
    slot = vm.slot(device.name)
    vm.guest.boot_plugged_device(slot, keep=keep)
    if vm.machine.paused:
        device.set_up_rings(vm.guest.ring_addresses(slot))  # `cont` starts them
    else:
        vm.activate_device(slot)
    vm.guest.use_device(slot)


def _check_capacity(vm: Vm, device: VhostDevice) -> int | None:
    """The sectors of a disk; None for another device.

    Raises:
        EmuError: the guest's blocks do not fit on it.
    """
    if not isinstance(device, VhostUserBlk):
        return None
    spec = vm.spec.devices[vm.slot(device.name)]
    needed = scratch_bytes(1 + max(spec.rings_used, default=-1)) // SECTOR_SIZE
    capacity = device.capacity(timeout=vm.timeout)
    if capacity < needed:
        raise EmuError(f"{device.name}: a disk of {capacity} sectors; the guest needs {needed}")
    return capacity
