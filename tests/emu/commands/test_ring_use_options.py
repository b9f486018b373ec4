"""The options for the rings that the guest uses, as `emu run`, `emu migrate`, `emu attach` share.

`tests/emu/test_ring_use.py` runs the commands with them.
"""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from emu.commands import attach as attaching
from emu.commands.attach import AttachOptions, attach
from emu.commands.migrate import migrate
from emu.commands.options import MachineOptions, machine_plan
from emu.commands.run import run
from emu.config.ring_use import ALL_RINGS, RingUse, first_units, these_rings
from emu.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import click

    from emu.config.vm_spec import DeviceGroup

VM = ("--net", "2x8", "--blk", "2x4", "--vcpus", "2", "--memory", "256M", "--accel", "soft")


def planned(command: click.Command, *arguments: str) -> tuple[DeviceGroup, ...]:
    context = command.make_context("command", [*VM, *arguments])
    return machine_plan(MachineOptions.of(context.params)).spec.groups


def of_run(*arguments: str) -> tuple[DeviceGroup, ...]:
    return planned(run, *arguments)


def of_migrate(*arguments: str) -> tuple[DeviceGroup, ...]:
    return planned(migrate, *arguments)


def of_attach(*arguments: str) -> tuple[DeviceGroup, ...]:
    sockets = ("--net", "n", "--net", "m", "--rings", "8")
    # All devices of an attached VM have the same number of rings, if it is given.
    context = attach.make_context("attach", [*sockets, "--blk", "b", "--blk", "c", *arguments])
    return attaching._plan(AttachOptions.of(context.params)).spec.groups


@pytest.mark.parametrize("groups_of", [of_run, of_migrate, of_attach])
@pytest.mark.parametrize(
    ("arguments", "net", "blk"),
    [
        ((), ALL_RINGS, ALL_RINGS),
        (("--rings-used", "blk=1,3"), ALL_RINGS, these_rings([1, 3])),
        (("--rings-used", "blk=none"), ALL_RINGS, these_rings([])),
        (("--rings-used", "net=2-3,6-7"), these_rings([2, 3, 6, 7]), ALL_RINGS),
        (
            ("--rings-used", "net=none", "--rings-used", "blk=0"),
            these_rings([]),
            these_rings([0]),
        ),
        (("--pairs-used", "3"), first_units(3, 2), ALL_RINGS),
        (("--pairs-used", "1", "--rings-used", "blk=2"), first_units(1, 2), these_rings([2])),
    ],
)
def test_each_command_has_the_rings_in_its_plan(
    groups_of: Callable[..., tuple[DeviceGroup, ...]],
    arguments: tuple[str, ...],
    net: RingUse,
    blk: RingUse,
) -> None:
    groups = groups_of(*arguments)
    assert [(group.device_class, group.use) for group in groups] == [("net", net), ("blk", blk)]


@pytest.mark.parametrize("groups_of", [of_run, of_migrate, of_attach])
@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--rings-used", "blk=1,8"), "--rings-used blk=1,8: a disk of [48] rings has no ring 8"),
        (("--rings-used", "blk=-1"), "--rings-used blk=-1: '-1' is not a list of rings"),
        (("--rings-used", "blk=1,1"), "--rings-used blk=1,1: ring 1 is there twice"),
        (("--rings-used", "blk=one"), "--rings-used blk=one: 'one' is not a list of rings"),
        (("--rings-used", "blk="), "--rings-used 'blk=': write it like blk=1,3 or blk=none"),
        (("--rings-used", "1,3"), "--rings-used '1,3': write it like .*a kind is net, blk or rng"),
        (("--rings-used", "gpu=1"), "--rings-used 'gpu=1': write it like"),
        (("--rings-used", "rng=0"), "--rings-used rng=0: the VM has no entropy device"),
        (("--rings-used", "net=3"), "--rings-used net=3: ring 3 of a NIC is used together with"),
        (("--rings-used", "blk=1", "--rings-used", "blk=2"), "the rings of blk are given twice"),
        (("--pairs-used", "0"), "--pairs-used 0 is not a number of pairs: 1 to 128"),
        (("--pairs-used", "5"), "--pairs-used 5: a NIC of 8 rings has 4 pairs"),
        (("--pairs-used", "1", "--rings-used", "net=0-1"), "--rings-used net=... is given, too"),
    ],
)
def test_other_values_are_one_line_before_anything_is_started(
    groups_of: Callable[..., tuple[DeviceGroup, ...]], arguments: tuple[str, ...], text: str
) -> None:
    """With the status of a usage error."""
    with pytest.raises(OptionError, match=text) as caught:
        groups_of(*arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("arguments", [("--rings-used", "blk=1"), ("--pairs-used", "1")])
def test_a_file_describes_the_whole_vm(arguments: tuple[str, ...]) -> None:
    """Its keys are `rings_used` and `pairs_used`."""
    context = run.make_context("run", ["--vm", "vm.toml", *arguments])
    with pytest.raises(OptionError, match=f"--vm describes the whole VM: leave {arguments[0]}"):
        machine_plan(MachineOptions.of(context.params))


def test_a_disk_of_the_users_that_has_no_ring_in_use_cannot_be_read(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(1 << 20))
    with pytest.raises(OptionError, match=r"disk.img: the guest uses no ring of the disk"):
        of_run("--disk", str(image), "--rings-used", "blk=none")
    assert of_run("--disk", str(image), "--rings-used", "blk=3")


@pytest.mark.parametrize(
    ("arguments", "rings"),
    [
        (("--blk", "b"), 1),
        (("--blk", "b", "--rings-used", "blk=1,3"), 4),
        (("--blk", "b", "--rings-used", "blk=none"), 1),
        (("--net", "n", "--rings-used", "net=2-3"), 4),
        (("--net", "n", "--pairs-used", "3"), 6),
        (("--rng", "r", "--rings-used", "rng=0"), 1),
    ],
)
def test_an_attached_device_has_as_many_rings_as_the_guest_uses(
    arguments: tuple[str, ...], rings: int
) -> None:
    """At least; if the back-ends offer more, it may get more."""
    own = AttachOptions.of(attach.make_context("attach", list(arguments)).params)
    plan = attaching._plan(own)
    assert not plan.rings_given
    assert [group.rings for group in plan.spec.groups] == [rings]
