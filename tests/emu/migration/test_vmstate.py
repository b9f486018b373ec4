"""Device state in the stream: round trip, and state that does not fit."""
# ruff: noqa: D103 - the names describe them

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from devices.blk import VhostUserBlk
from emu.errors import MigrationError
from emu.migration.vmstate import (
    SentDevices,
    load_bases,
    load_devices,
    load_switchover,
    pack_bases,
    pack_devices,
)
from vhost_user.features import VIRTIO_RING_F_EVENT_IDX
from vhost_user.virtqueue import RingAddresses

if TYPE_CHECKING:
    from devices.device import VhostDevice
    from emu.vm.vm import Vm


class Offline(VhostUserBlk):
    """A disk whose back-end has every feature."""

    def use_features(self, features: int) -> None:
        """Accept all features."""
        self.acked_features = features


def make(rings: int = 2, name: str = "blk0") -> VhostDevice:
    device = Offline(name, range(0x1000, 0x1000 + 4 * rings, 4), range(rings))
    device.acked_features = 1 << 32
    return device


def test_round_trip() -> None:
    """Features, sizes, addresses and bases; devices with changed rings are returned."""
    source, target = make(), make()
    source.set_up_rings([RingAddresses(128, n, n + 1, n + 2) for n in (0x10000, 0x20000)])
    source.rings[1].base = 0xFFFF
    data = pack_devices([source])
    assert load_devices(data, [target]) == [target]
    assert [ring.addresses for ring in target.rings] == [ring.addresses for ring in source.rings]
    assert [ring.base for ring in target.rings] == [0, 0xFFFF]
    assert target.acked_features == 1 << 32
    source.rings[0].base, source.rings[0].held = 9, 2
    assert load_devices(pack_devices([source]), [target]) == []
    assert (target.rings[0].base, target.rings[0].held) == (7, 0)
    for device in (source, target):
        device.close()


@pytest.mark.parametrize(
    ("mangle", "text"),
    [
        (lambda data: data[:-1], "ends before blk0"),
        (lambda data: b"", "ends before blk0"),
        (lambda data: data + b"\0", "more devices"),
    ],
)
def test_state_of_the_wrong_length_is_refused(mangle: object, text: str) -> None:
    """Truncated, empty, or with trailing bytes."""
    source, target = make(), make()
    source.set_up_rings([RingAddresses(8, 0, 0, 0)] * 2)
    assert callable(mangle)
    with pytest.raises(MigrationError, match=text):
        load_devices(mangle(pack_devices([source])), [target])
    for device in (source, target):
        device.close()


@pytest.mark.parametrize(("rings", "name"), [(1, "blk0"), (2, "blk1")])
def test_state_of_other_devices_is_refused(rings: int, name: str) -> None:
    """The error names the devices of both sides."""
    source, target = make(), make(rings, name)
    source.set_up_rings([RingAddresses(8, 0, 0, 0)] * 2)
    with pytest.raises(MigrationError, match=f"blk0 with 2 rings where this side has {name}"):
        load_devices(pack_devices([source]), [target])
    for device in (source, target):
        device.close()


def test_switchover_has_bases_and_vcpus(vm: Vm, other: Vm) -> None:
    """The length is checked before any state is loaded."""
    vm.pause_vcpus()
    vm.stop_devices()
    sent = SentDevices(vm.devices)
    assert load_devices(sent.data, other.devices) == other.devices
    for number, ring in enumerate(each for device in vm.devices for each in device.rings):
        ring.base, ring.held = 0xFFFF - number, number % 2
    data = sent.pack_switchover(vm)
    assert len(data) < len(sent.data)
    for bad in (data[:4], data[:-1], data + b"x"):
        with pytest.raises(MigrationError, match="device state"):
            load_switchover(bad, other)
    assert load_switchover(data, other) == []
    pairs = zip(vm.devices, other.devices, strict=True)
    for ours, theirs in pairs:
        assert [ring.base for ring in theirs.rings] == [ring.base_elsewhere for ring in ours.rings]
    assert other.machine.save_vcpus()


@pytest.mark.parametrize("change", ["set up", "reset", "features"])
def test_switchover_has_devices_that_have_changed(vm: Vm, other: Vm, change: str) -> None:
    """Since DEVICES was sent; the others with them."""
    vm.pause_vcpus()
    vm.stop_devices()
    sent = SentDevices(vm.devices)
    load_devices(sent.data, other.devices)
    device = vm.devices[0]
    if change == "features":
        device.acked_features &= ~(1 << VIRTIO_RING_F_EVENT_IDX)
    elif change == "reset":
        device.forget_rings()
    else:
        device.set_up_rings([RingAddresses(8, 16, 1024, 2048)] * len(device.rings))
    changed = load_switchover(sent.pack_switchover(vm), other)
    assert changed == ([] if change == "features" else other.devices[:1])
    assert other.devices[0].acked_features == device.acked_features
    assert other.devices[0].rings[0].addresses == device.rings[0].addresses


@pytest.mark.parametrize("rings", [0, 1, 3])
def test_bases_of_other_rings_are_refused(rings: int) -> None:
    source, target = make(rings or 1), make(2)
    target.set_up_rings([RingAddresses(8, 0, 0, 0)] * 2)
    if rings:
        source.set_up_rings([RingAddresses(8, 0, 0, 0)] * rings)
    with pytest.raises(MigrationError, match=f"{2 * rings} bytes of bases for 2 rings"):
        load_bases(pack_bases([source]), [target])
    assert [ring.base for ring in target.rings] == [0, 0]
    for device in (source, target):
        device.close()


@pytest.mark.parametrize("used", [(1, 3), (), (0,), (3,)], ids=str)
def test_rings_keep_their_indices(used: tuple[int, ...]) -> None:
    """A driver sets up any of a device's rings, and another migration finds them the same."""
    source, target = make(4), make(4)
    source.set_up_rings([RingAddresses(8, 16 * n, 1, 2) if n in used else None for n in range(4)])
    for index in used:
        source.rings[index].base = 100 + index
    assert load_devices(pack_devices([source]), [target]) == ([target] if used else [])
    assert [ring.index for ring in target.configured_rings()] == list(used)
    assert [ring.base for ring in target.configured_rings()] == [100 + index for index in used]
    assert load_devices(pack_devices([source]), [target]) == []
    for device in (source, target):
        device.close()
