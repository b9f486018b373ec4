"""A VM's shape in a TOML file, and as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from emu.config import vm_file
from emu.config.ring_use import first_units, these_rings
from emu.config.vm_spec import DeviceGroup, ShapeError, VmSpec
from emu.errors import OptionError, PreflightError

if TYPE_CHECKING:
    from emu.qmp.protocol import JsonObject


def read(tmp_path: Path, text: str) -> VmSpec:
    """The VM of a file with this text."""
    path = tmp_path / "vm.toml"
    path.write_text(text)
    return vm_file.read(path)


def test_all_settings_in_both_forms(tmp_path: Path) -> None:
    """The table and the short form."""
    spec = read(
        tmp_path,
        'vcpus = 4\nmemory = "1G"\nblk = "2x3"\n[net]\ncount = 2\nrings = 8\n',
    )
    assert spec == VmSpec(4, 1 << 30, (DeviceGroup("net", 2, 8), DeviceGroup("blk", 2, 3)))


def test_settings_that_are_missing_are_those_of_the_default(tmp_path: Path) -> None:
    """As with the options."""
    assert read(tmp_path, "") == VmSpec()
    none = read(tmp_path, "net = 0\nmemory = 1073741824\n")
    assert (
        none
        == read(tmp_path, 'net = "0"\nmemory = 1073741824\n')
        == VmSpec(224, 1 << 30, (DeviceGroup("blk", 24, 4),))
    )


def test_the_rings_that_the_guest_uses(tmp_path: Path) -> None:
    """As with ``--rings-used`` and ``--pairs-used``."""
    spec = read(
        tmp_path,
        "[net]\ncount = 2\nrings = 8\npairs_used = 3\n"
        "[blk]\ncount = 1\nrings = 4\nrings_used = [3, 1]\n"
        "[rng]\ncount = 1\nrings = 1\nrings_used = []\n",
    )
    assert [group.use for group in spec.groups] == [
        first_units(3, 2),
        these_rings([1, 3]),
        these_rings([]),
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("vcpu = 4", "'vcpu' is not a key"),
        ('vcpus = "4"', "not a whole number"),
        ("vcpus = true", "not a whole number"),
        ("memory = 1.5", "is not a size"),
        ('memory = "12Q"', "is not a size"),
        ("[net]\ncount = 2", "[net]: rings must be given"),
        ('[net]\nbackend = "testpmd"', "[net]: count and rings must be given"),
        (
            "[net]\ncount = 2\nrings = 2\nring = 2",
            "[net]: 'ring' is not a key: use count, rings, backend, pairs_used, rings_used",
        ),
        ("net = 2", 'net = 2 is not a shape: write "COUNTxRINGS", such as "16x32", or 0'),
        ("net = false", "net = False is not a shape"),
        ("net = [1, 2]", "net = [1, 2] is not a shape"),
        ('[net]\ncount = 2\nrings = "4"', "whole numbers"),
        ("[net]\ncount = 2\nrings = 3", "come in pairs"),
        ("[blk]\ncount = 1\nrings = 257", "at most 256 rings"),
        ("[blk]\ncount = -1\nrings = 4", "not a shape"),
        ("vcpus = 0", "0 vCPUs"),
        (
            "[blk]\ncount = 1\nrings = 4\nrings_used = [4]",
            "--rings-used blk=4: a disk of 4 rings has no ring 4",
        ),
        ("[blk]\ncount = 1\nrings = 4\nrings_used = [-1]", "-1 is not a ring: 0 to 255"),
        ("[blk]\ncount = 1\nrings = 4\nrings_used = [1, 1]", "ring 1 is there twice"),
        ("[blk]\ncount = 1\nrings = 4\nrings_used = [true]", "is not a list of rings"),
        ("[blk]\ncount = 1\nrings = 4\nrings_used = 1", "is not a list of rings"),
        ("[blk]\ncount = 1\nrings = 4\npairs_used = 1", "disks have no pairs of rings"),
        ("[net]\ncount = 1\nrings = 4\nrings_used = [1]", "is used together with ring 0"),
        ("[net]\ncount = 1\nrings = 4\npairs_used = 3", "a NIC of 4 rings has 2 pairs"),
        ("[net]\ncount = 1\nrings = 4\npairs_used = 0", "0 is not a number of pairs"),
        ('[net]\ncount = 1\nrings = 4\npairs_used = "1"', "is not a whole number"),
        (
            "[net]\ncount = 1\nrings = 4\npairs_used = 1\nrings_used = [0, 1]",
            "exclude each other",
        ),
        ("vcpus = ", "is not TOML"),
        ("vcpus = " + "9" * 5000, "is not TOML"),
        ("vcpus = 0x" + "f" * 100_000, "more than 64 bits"),
        ("vcpus = [[0x" + "f" * 100_000 + "]]", "more than 64 bits"),
        ("vcpus = " + "[" * 100_000, "nested too deeply"),
        ("vcpus = inf", "not a whole number"),
        ("memory = nan", "is not a size"),
        ("#" * (vm_file.MAX_BYTES + 1), "has more than"),
    ],
)
def test_an_invalid_file_is_an_error_of_one_line_that_names_it(
    tmp_path: Path, text: str, line: str
) -> None:
    """And has the status of a usage error."""
    with pytest.raises(OptionError) as caught:
        read(tmp_path, text)
    assert line in str(caught.value)
    assert "vm.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    """With the system's reason."""
    with pytest.raises(PreflightError, match="No such file"):
        vm_file.read(tmp_path / "none.toml")


def test_json_round_trips() -> None:
    """All fields of a shape are in its JSON."""
    groups = (
        DeviceGroup("net", 1, 8, first_units(3, 2)),
        DeviceGroup("blk", 2, 4, these_rings([1, 3])),
        DeviceGroup("rng", 1, 1, these_rings([])),
    )
    for group in (DeviceGroup("blk", 2, 3), *groups):
        spec = VmSpec(4, 1 << 30, (group,), 64)
        assert vm_file.spec_from_json(vm_file.spec_to_json(spec)) == spec


_GROUP = {"class": "blk", "count": 1, "rings": 2}


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"vcpus": 1, "memory_bytes": 1, "groups": [3]},
        *(
            {
                "vcpus": 1,
                "memory_bytes": 1 << 30,
                "ring_size": 8,
                "groups": [{**_GROUP, "rings_used": rings}],
            }
            for rings in ([2], [1, 1], [256], ["1"], 1)
        ),
    ],
)
def test_json_that_is_not_a_shape_is_an_error(value: JsonObject) -> None:
    """A peer may send anything."""
    with pytest.raises(ShapeError):
        vm_file.spec_from_json(value)


def test_what_is_not_a_regular_file_is_not_read() -> None:
    """The read of a device may never end."""
    with pytest.raises(PreflightError, match="/dev/zero: is not a regular file"):
        vm_file.read(Path("/dev/zero"))
