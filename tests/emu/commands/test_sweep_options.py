"""The options of `emu sweep`."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import pytest

from emu.commands.sweep import sweep
from emu.commands.sweep_options import SweepOptions
from emu.config.vm_spec import VmSpec
from emu.errors import OptionError

BASE = VmSpec(2, 256 << 20)


def options(*arguments: str) -> SweepOptions:
    return SweepOptions.of(sweep.make_context("sweep", list(arguments)).params)


def test_by_default_half_of_the_devices_are_nics() -> None:
    specs = options().specs(BASE)
    assert [len(spec.devices) for spec in specs] == [4, 16, 40, 128]
    assert {device.rings for spec in specs for device in spec.devices} == {8}
    assert [len(spec.devices) for spec in options("--devices", "2,3").specs(BASE)] == [2, 3]


def test_shapes_are_a_matrix() -> None:
    own = options("--net", "0,2x4", "--rng", "1..2x1")
    assert len(own.specs(BASE)) == 4
    # With these the options that are about one VM are checked.
    assert own.first_devices == {"net": "2x4", "blk": None, "rng": "1x1"}
    assert options("--net", "0").first_devices["net"] == "0"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--devices", "4", "--rings", "7"), "--rings 7: a NIC's rings come in pairs"),
        (("--net", "1x2", "--rings", "2"), "use --rings or --net, not both"),
        (("--rng", "1x1", "--devices", "4"), "use --devices or --rng, not both"),
    ],
)
def test_options_that_contradict_each_other(arguments: tuple[str, ...], line: str) -> None:
    with pytest.raises(OptionError, match=line):
        options(*arguments).specs(BASE)
