"""What back-ends offer decides how many rings the devices of `emu attach` have."""
# ruff: noqa: D103 - the names say what they do

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from backends.control import ControlOptions
from emu.config.device_kinds import KINDS
from emu.config.ring_use import RingUse, first_units, these_rings
from emu.config.vm_spec import DeviceGroup, DeviceSpec, VmSpec
from emu.errors import EmuError
from emu.orchestrator.attach_connect import connect, with_offered_rings
from tests.backends.served import KINDS as SERVED
from tests.backends.served import Served
from vhost_user.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from devices.device import BackEnd


def offered(kind: str, rings: int, folder: Path) -> BackEnd:
    """What a back-end with so many rings offers; it has ended."""
    of_kind = SERVED[kind]()
    of_kind.rings = rings
    served = Served(of_kind, folder, ControlOptions())
    made = connect(DeviceSpec(kind, 0, 1), served.path, pytest.fail)
    made.connection.close()
    served.close()
    return made


@pytest.mark.parametrize(
    ("kind", "rings", "used"),
    [
        ("blk", 1, 1),
        ("blk", 2, 2),
        ("blk", 4, 2),
        ("net", 2, 2),
        ("net", 8, 2),
        ("rng", 1, 1),
        ("rng", 4, 1),
    ],
)
def test_as_many_rings_as_the_back_end_offers(
    kind: str, rings: int, used: int, tmp_path: Path
) -> None:
    """Two at most; those of a NIC are a pair, and an entropy device has one."""
    spec = VmSpec(1, 1 << 30, (DeviceGroup(kind, 1, KINDS[kind].rings_per_unit),))
    back_ends = {f"{kind}0": offered(kind, rings, tmp_path)}
    assert with_offered_rings(spec, back_ends).groups == (DeviceGroup(kind, 1, used),)


def test_devices_of_a_kind_have_what_each_back_end_offers(tmp_path: Path) -> None:
    spec = VmSpec(1, 1 << 30, (DeviceGroup("blk", 2, 1), DeviceGroup("rng", 1, 1)))
    back_ends = {
        "blk0": offered("blk", 4, tmp_path),
        "blk1": offered("blk", 1, tmp_path),
        "rng0": offered("rng", 1, tmp_path),
    }
    assert with_offered_rings(spec, back_ends) == spec


@pytest.mark.parametrize(
    ("kind", "use", "rings"),
    [
        ("blk", these_rings([1, 3]), 4),
        ("blk", these_rings([5]), 6),
        ("blk", these_rings([]), 2),
        ("net", these_rings([4, 5]), 6),
        ("net", first_units(2, 2), 4),
    ],
)
def test_a_device_has_the_rings_that_the_guest_uses(
    kind: str, use: RingUse, rings: int, tmp_path: Path
) -> None:
    """And two, if it uses fewer."""
    unit = KINDS[kind].rings_per_unit
    placeholder = DeviceGroup(kind, 1, max(use.needed, unit), use)
    back_ends = {f"{kind}0": offered(kind, 6, tmp_path)}
    spec = VmSpec(1, 1 << 30, (placeholder,))
    assert with_offered_rings(spec, back_ends).groups == (DeviceGroup(kind, 1, rings, use),)


def test_a_back_end_that_offers_fewer_rings_than_the_guest_uses_is_named(tmp_path: Path) -> None:
    group = DeviceGroup("blk", 2, 4, these_rings([1, 3]))
    back_ends = {name: offered("blk", n, tmp_path) for name, n in (("blk0", 4), ("blk1", 2))}
    text = "blk1: the back-end offers 2 of the 4 rings of --rings-used blk=1,3"
    with pytest.raises(EmuError, match=text):
        with_offered_rings(VmSpec(1, 1 << 30, (group,)), back_ends)


def test_a_path_without_a_socket_is_not_waited_for(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"blk0: .* is not a socket"):
        connect(DeviceSpec("blk", 0, 1), str(tmp_path), pytest.fail)
