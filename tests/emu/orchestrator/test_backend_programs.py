"""Which programs serve a VM's devices."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest

from emu.config.backend_commands import BackEndCommand
from emu.config.plan import MachinePlan
from emu.config.vm_spec import DeviceGroup, VmSpec
from emu.orchestrator.backend_programs import device_files, program_specs
from emu.orchestrator.run_directory import RunDirectory
from tests.emu.fake_runs import disk_file, machine_plan

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("kind", ["net", "blk"])
def test_devices_are_split_between_two_programs(kind: str) -> None:
    """As evenly as possible; a single device has one program."""
    with RunDirectory() as directory:

        def programs(devices: int) -> list[list[str]]:
            spec = VmSpec(1, 1 << 30, (DeviceGroup(kind, devices, 2),))
            specs = program_specs(MachinePlan(spec), directory)
            return [[device.name for device in spec.devices] for spec in specs]

        assert programs(1) == [[f"{kind}0"]]
        assert programs(5) == [[f"{kind}{n}" for n in part] for part in ((0, 1), (2, 3, 4))]


def test_a_disk_that_is_only_read_has_a_read_only_program(tmp_path: Path) -> None:
    """The programs of the other disks are writable, also that of a writable image file."""
    with RunDirectory() as directory:
        for writable in (False, True):
            disk = disk_file(tmp_path / "disk.img", bytes(512), writable=writable)
            specs = program_specs(machine_plan(disk=disk), directory)
            disks = [spec for spec in specs if spec.device_class == "blk"]
            owner = next(spec for spec in disks if str(disk.path) in spec.arguments)
            assert owner.devices[0].name == "blk0"
            assert ("--read-only" in owner.arguments) != writable
            assert [spec.name for spec in disks] == (
                ["blk-0", "blk-1"] if writable else ["blk-ro", "blk-0"]
            )


@pytest.mark.parametrize(
    ("text", "programs"),
    [
        ("serve {socket} {image}", [["blk0"], ["blk1"]]),
        ("serve {sockets} {image}", [["blk0", "blk1"]]),
    ],
    ids=["each", "all"],
)
def test_a_command_serves_each_device_or_all(text: str, programs: list[list[str]]) -> None:
    """As its placeholder says; the other classes keep this project's programs."""
    plan = dataclasses.replace(machine_plan(), back_ends={"blk": BackEndCommand.parse("blk", text)})
    with RunDirectory() as directory:
        specs = program_specs(plan, directory)
        disks = [spec for spec in specs if spec.device_class == "blk"]
        assert [[device.name for device in spec.devices] for spec in disks] == programs
        assert all(spec.command is plan.back_ends["blk"] for spec in disks)
        assert all(spec.command is None for spec in specs if spec.device_class == "net")


def test_sockets_that_listen_already_have_no_program() -> None:
    """Nothing is started for them."""
    listening = {"blk": {"A": ("/a0", "/a1"), "B": ("/b0", "/b1")}}
    plan = dataclasses.replace(machine_plan(), listening=listening)
    with RunDirectory() as directory:
        assert {spec.device_class for spec in program_specs(plan, directory)} == {"net"}


def test_the_first_disk_of_a_command_is_the_users_file(tmp_path: Path) -> None:
    """And the others have scratch images of the run."""
    disk = disk_file(tmp_path / "disk.img", bytes(512), writable=True)
    plan = machine_plan(disk=disk)
    disks = [device for device in plan.spec.devices if device.device_class == "blk"]
    with RunDirectory() as directory:
        first, second = device_files(plan, "A", disks, directory)
        assert (first.number, first.rings, first.image) == (0, disks[0].rings, str(disk.path))
        assert second.image == str(directory.image("blk1"))
        assert second.socket == str(directory.socket("A", "blk1"))
