"""The state of devices and vCPUs, as sent over the migration stream."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from emu.errors import MigrationError, Operation
from vhost_user.virtqueue import RingAddresses

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from devices.device import VhostDevice
    from emu.vm.vm import Vm

_DEVICE = struct.Struct("<16sQI")
_RING = struct.Struct("<IIIQQQ")
_Ring = tuple[int, int, int, int, int, int]


def pack_devices(devices: Iterable[VhostDevice]) -> bytes:
    """Name, acked features and rings (index, size, base, addresses) of every device.

    A driver need not set up all rings of a device, nor the first ones.
    """
    parts: list[bytes] = []
    for device in devices:
        rings = device.configured_rings()
        parts.append(_DEVICE.pack(device.name.encode(), device.acked_features, len(rings)))
        for ring in rings:
            where = ring.addresses
            assert where is not None  # noqa: S101  configured() checks it
            addresses = where.desc, where.avail, where.used
            parts.append(_RING.pack(ring.index, where.size, ring.base_elsewhere, *addresses))
    return b"".join(parts)


def load_devices(data: bytes, devices: Sequence[VhostDevice]) -> list[VhostDevice]:
    """Load the state that `pack_devices` packed into the devices.

    Returns:
        The devices whose rings have other addresses or sizes than before.

    Raises:
        MigrationError: the state is of other devices.
        BackendError: this side's back-end lacks a feature that the guest uses.
    """
    at = 0
    changed: list[VhostDevice] = []
    for device in devices:
        try:
            raw, features, count = _DEVICE.unpack_from(data, at)
            at += _DEVICE.size
            rings = [_RING.unpack_from(data, at + index * _RING.size) for index in range(count)]
        except struct.error:
            raise MigrationError(
                Operation.LOAD_STATE, f"the state of the devices ends before {device.name}"
            ) from None
        at += count * _RING.size
        name = raw.rstrip(b"\0").decode(errors="replace")
        there = {ring[0]: ring for ring in rings}
        if name != device.name or len(there) < count or max(there, default=0) >= len(device.rings):
            raise MigrationError(
                Operation.LOAD_STATE,
                f"the source has {name} with {1 + max(there, default=-1)} rings where this side "
                f"has {device.name} with {len(device.rings)}",
            )
        device.use_features(features)
        if _load_rings(device, there):
            changed.append(device)
    if at != len(data):
        raise MigrationError(Operation.LOAD_STATE, "the source has more devices than this side")
    return changed


def _load_rings(device: VhostDevice, rings: Mapping[int, _Ring]) -> bool:
    """Load the rings, by index; return whether one has another address or size than before."""
    changed = False
    for ring in device.rings:
        addresses, base = None, 0  # as of a ring that the driver has not set up, or has reset
        if ring.index in rings:
            _, size, base, desc, avail, used = rings[ring.index]
            addresses = RingAddresses(size, desc, avail, used)
        changed = changed or ring.addresses != addresses
        ring.set_up(addresses, base)
    return changed


_SWITCHOVER = struct.Struct("<III")


class SentDevices:
    """The devices as DEVICES has them: what the destination knows before the blackout.

    Args:
        devices: the VM's devices, while nothing else changes them.

    Attributes:
        data: the payload of DEVICES.
    """

    def __init__(self, devices: Iterable[VhostDevice]) -> None:
        self._devices = list(devices)
        self.data = pack_devices(self._devices)
        self._known = self._set_up

    @property
    def _set_up(self) -> list[tuple[int, int]]:
        return [(device.setups, device.acked_features) for device in self._devices]

    def pack_switchover(self, vm: Vm) -> bytes:
        """The state besides memory: the bases of all rings, and all vCPUs.

        If the guest's driver has reset or set up a device since, the devices instead of the bases:
        most VMs wait for the bases only.
        """
        bases, devices = b"", b""
        if list(vm.devices) == self._devices and self._set_up == self._known:
            bases = pack_bases(self._devices)
        else:
            devices = pack_devices(vm.devices)
        vcpus = vm.machine.save_vcpus()
        return _SWITCHOVER.pack(len(bases), len(devices), len(vcpus)) + bases + devices + vcpus


def _bases(count: int) -> struct.Struct:
    return struct.Struct(f"<{count}H")


def pack_bases(devices: Iterable[VhostDevice]) -> bytes:
    """The base of each ring that a driver has set up, in the order of `pack_devices`."""
    bases = [ring.base_elsewhere for device in devices for ring in device.configured_rings()]
    return _bases(len(bases)).pack(*bases)


def load_bases(data: bytes, devices: Iterable[VhostDevice]) -> None:
    """Load the bases that `pack_bases` packed into rings that are as `pack_devices` had them.

    Raises:
        MigrationError: there are more or fewer rings.
    """
    rings = [ring for device in devices for ring in device.configured_rings()]
    form = _bases(len(rings))
    if len(data) != form.size:
        text = f"the source has {len(data)} bytes of bases for {len(rings)} rings"
        raise MigrationError(Operation.LOAD_STATE, text)
    for ring, base in zip(rings, form.unpack(data), strict=True):
        ring.base = base


def load_switchover(data: bytes, vm: Vm) -> list[VhostDevice]:
    """The reverse of `SentDevices.pack_switchover`; raises and returns as `load_devices`."""
    if len(data) < _SWITCHOVER.size:
        raise MigrationError(Operation.LOAD_STATE, "the device state is truncated")
    sizes = _SWITCHOVER.unpack_from(data)
    if len(data) != _SWITCHOVER.size + sum(sizes):
        raise MigrationError(Operation.LOAD_STATE, "the device state has the wrong length")
    after_bases = _SWITCHOVER.size + sizes[0]
    after_devices = after_bases + sizes[1]
    vm.machine.load_vcpus(data[after_devices:])
    if sizes[1]:
        return load_devices(data[after_bases:after_devices], vm.devices)
    load_bases(data[_SWITCHOVER.size : after_bases], vm.devices)
    return []
