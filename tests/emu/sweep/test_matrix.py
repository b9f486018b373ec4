"""Shapes of VMs, and the points of a matrix."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import pytest

from emu.config.vm_spec import DeviceGroup, VmSpec
from emu.errors import OptionError
from emu.sweep.matrix import (
    MAX_POINTS,
    accelerators,
    points,
    product,
    shape_of,
    shapes,
    sizes,
)

BASE = VmSpec(2, 256 << 20)


@pytest.mark.parametrize("text", ["", "4,", "4,x", "0", "1001", "-4"])
def test_an_invalid_list_of_sizes_is_refused(text: str) -> None:
    """The error is one line with an example."""
    with pytest.raises(OptionError, match=r"4,16,40,128"):
        sizes(text)


def test_half_of_the_devices_are_nics() -> None:
    """Of an odd number one more is a disk."""
    assert sizes("4,16") == (4, 16)
    groups = shape_of(5, 8, VmSpec()).groups
    assert [(g.device_class, g.count, g.rings) for g in groups] == [("net", 2, 8), ("blk", 3, 8)]
    assert [g.device_class for g in shape_of(1, 8, VmSpec()).groups] == ["blk"]


def test_a_range_is_each_number_of_devices() -> None:
    expected = [DeviceGroup("net", count, 32) for count in (1, 2, 3)]
    assert shapes("net", "1..3x32") == tuple(expected)
    assert shapes("net", "2x4, 0,3..4x2") == (
        DeviceGroup("net", 2, 4),
        None,
        DeviceGroup("net", 3, 2),
        DeviceGroup("net", 4, 2),
    )


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("1..16", "is not a shape"),
        ("3..2x4", "it ends before it begins"),
        ("0..2x4", "--net 0x4: a count must be 1 or more"),
        ("1..2x3", "--net 1x3"),
        ("1x2,1..2x2", "a shape is there twice"),
        ("", "is not a shape"),
        ("1..9999x2", "at most 1024 devices"),
        ("1.." + "9" * 100 + "x2", "is not a shape"),
    ],
)
def test_an_invalid_shape_is_one_line(text: str, line: str) -> None:
    with pytest.raises(OptionError, match=line):
        shapes("net", text)


def test_the_vms_are_all_combinations() -> None:
    found = product({"net": "1..2x4", "blk": "0,3x1"}, BASE)
    assert [point.key for point in points(found, ["soft"])] == [
        "net-1x4_soft",
        "net-1x4_blk-3x1_soft",
        "net-2x4_soft",
        "net-2x4_blk-3x1_soft",
    ]
    assert {(spec.vcpus, spec.memory_bytes) for spec in found} == {(2, 256 << 20)}


def test_a_kind_that_is_not_named_is_that_of_the_default_vm() -> None:
    (spec,) = product({"net": "1x2"}, BASE)
    assert spec.groups == (DeviceGroup("net", 1, 2), DeviceGroup("blk", 24, 4))
    (spec,) = product({"rng": "1x1", "net": "0"}, BASE)
    assert [group.device_class for group in spec.groups] == ["blk", "rng"]


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"net": "0,1x2", "blk": "0"}, "would have no device"),
        ({"net": "1..200x2", "blk": "1..200x1"}, f"more than {MAX_POINTS} points"),
    ],
)
def test_a_matrix_that_cannot_be_is_one_line(given: dict[str, str], line: str) -> None:
    with pytest.raises(OptionError, match=line):
        product(given, BASE)


def test_each_vm_has_each_accelerator() -> None:
    specs = product({"net": "1x2", "blk": "1x1"}, BASE)
    found = points(specs, accelerators("soft, kvm"))
    assert [point.label for point in found] == ["net 1x2, blk 1x1, soft", "net 1x2, blk 1x1, kvm"]
    with pytest.raises(OptionError, match="points"):
        points(specs * (MAX_POINTS + 1), ["soft"])


@pytest.mark.parametrize(
    ("text", "line"),
    [("fast", "'fast' is not one of auto, "), ("soft,soft", "soft is there twice")],
)
def test_an_invalid_accelerator_is_one_line(text: str, line: str) -> None:
    with pytest.raises(OptionError, match=line):
        accelerators(text)
