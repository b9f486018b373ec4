"""Shapes of VMs, valid and invalid."""

from __future__ import annotations

import pytest

from emu.config.ring_use import ALL_RINGS, first_units, these_rings
from emu.config.vm_spec import (
    DeviceGroup,
    ShapeError,
    VmSpec,
    parse_group,
    parse_size,
    with_use,
)


def test_the_default_is_the_vm_of_the_rfc() -> None:
    """224 vCPUs, 180 GiB, 16 NICs x 32 rings, 24 disks x 4 rings."""
    spec = VmSpec()
    assert (spec.vcpus, spec.memory_bytes, spec.rings) == (224, 180 << 30, 608)
    names = [device.name for device in spec.devices]
    assert (names[0], names[15], names[16], names[39]) == ("net0", "net15", "blk0", "blk23")


@pytest.mark.parametrize(
    ("text", "size"),
    [("512M", 512 << 20), ("180G", 180 << 30), ("1t", 1 << 40), ("4096", 4096), ("2GiB", 2 << 30)],
)
def test_sizes(text: str, size: int) -> None:
    """With or without a unit, in either case."""
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "much", "1.5G", "-1G", "G", "1X", "9" * 30, "\uff11G"])
def test_invalid_sizes(text: str) -> None:
    """The text shows the format."""
    with pytest.raises(ShapeError, match="write it like 512M"):
        parse_size(text)


@pytest.mark.parametrize("text", ["0", "none", "0x0"])
def test_no_devices(text: str) -> None:
    """A VM may have no device of a class."""
    assert parse_group("net", text) is None


def test_a_group() -> None:
    """COUNTxRINGS."""
    assert parse_group("blk", "24x4") == DeviceGroup("blk", 24, 4)


@pytest.mark.parametrize(
    ("kind", "text", "what"),
    [
        ("net", "16", "is not a shape"),
        ("net", "x2", "is not a shape"),
        ("blk", "\uff12x4", "is not a shape"),
        ("blk", "99999999999x2", "is not a shape"),
        ("blk", "99999x2", "at most 1024 devices"),
        ("blk", "1x257", "at most 256 rings"),
        ("net", "2x3", "come in pairs"),
        ("rng", "3x2", "entropy devices have 1 ring each"),
        ("blk", "0x4", "1 or more"),
    ],
)
def test_invalid_shapes(kind: str, text: str, what: str) -> None:
    """The error comes before anything of that size is made."""
    with pytest.raises(ShapeError, match=what):
        parse_group(kind, text)


@pytest.mark.parametrize(
    ("vcpus", "memory", "what"),
    [(0, 1 << 30, "1 to 1024"), (1025, 1 << 30, "1 to 1024"), (1, 1 << 20, "at least 64M")],
)
def test_invalid_vms(vcpus: int, memory: int, what: str) -> None:
    """Bounds of the machine."""
    with pytest.raises(ShapeError, match=what):
        VmSpec(vcpus, memory)


NET, BLK = DeviceGroup("net", 2, 4), DeviceGroup("blk", 3, 4)


def test_the_guest_uses_some_rings_of_each_device_of_a_kind() -> None:
    """The devices keep all rings; those of the other kinds use all of them."""
    groups = with_use([NET, BLK], {"blk": these_rings([1, 3])})
    spec = VmSpec(1, 1 << 30, groups)
    assert (spec.rings, spec.rings_used) == (20, 14)
    assert [(device.rings, device.rings_used) for device in spec.devices[1:3]] == [
        (4, (0, 1, 2, 3)),
        (4, (1, 3)),
    ]
    assert [str(device) for device in spec.devices[1:3]] == ["net1x4", "blk0x4 (used: 1,3)"]
    assert with_use([NET, BLK], {}) == (NET, BLK)


def test_pairs_are_set_up_and_disabled_and_other_rings_are_not_set_up() -> None:
    """A device's rings are in use, disabled, or unknown to the driver."""
    groups = with_use([NET, BLK], {"net": first_units(1, 2), "blk": these_rings([0])})
    net, *_, blk = VmSpec(1, 1 << 30, groups).devices
    assert (net.rings_used, net.rings_set_up, net.rings_disabled) == ((0, 1), (0, 1, 2, 3), (2, 3))
    assert (blk.rings_used, blk.rings_set_up, blk.rings_disabled) == ((0,), (0,), ())


def test_a_kind_that_the_vm_lacks_has_no_rings() -> None:
    """All errors name the option."""
    with pytest.raises(ShapeError, match="--rings-used blk=1: the VM has no disk"):
        with_use([NET], {"blk": these_rings([1])})
    with pytest.raises(ShapeError, match="--rings-used blk=4: a disk of 4 rings has no ring 4"):
        VmSpec(1, 1 << 30, (DeviceGroup("blk", 1, 4, these_rings([4])),))


@pytest.mark.parametrize(
    ("groups", "answers"),
    [
        ((NET, BLK), True),
        ((BLK,), False),
        ((DeviceGroup("net", 2, 4, these_rings([2, 3])),), True),
        ((DeviceGroup("net", 2, 4, these_rings([])), BLK), False),
    ],
)
def test_the_first_nic_answers_if_it_uses_rings(
    groups: tuple[DeviceGroup, ...], answers: bool
) -> None:
    """Else no client outside waits for an answer."""
    assert VmSpec(1, 1 << 30, groups).answers_network is answers


def test_all_rings_are_used_unless_the_user_says_otherwise() -> None:
    """Of each kind."""
    assert {group.use for group in VmSpec().groups} == {ALL_RINGS}
    assert VmSpec().rings_used == VmSpec().rings
