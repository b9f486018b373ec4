"""Each kind of device is one row, and everything that the row names exists."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import click
import pytest
from click.testing import CliRunner

from backends import stats
from devices.device import VhostDevice
from emu.commands import validate
from emu.commands.group import emu
from emu.config.device_kinds import GROUP, KINDS, DeviceKind, load, one_of
from emu.config.vm_spec import DeviceGroup, ShapeError, VmSpec
from emu.errors import OptionError
from emu.guest.driver import Driver
from emu.guest.layout import GuestLayout
from emu.machine.ram import RamRegion
from emu.sweep.matrix import shape_of
from tests.timeouts import PROGRAM_TIMEOUT

if TYPE_CHECKING:
    from pathlib import Path

EVERY_KIND = pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))


@EVERY_KIND
def test_classes_and_modules_of_a_row_exist(kind: DeviceKind) -> None:
    """Front-end class, back-end program and guest driver."""
    front_end = load(kind.front_end)
    assert issubclass(front_end, VhostDevice)
    assert front_end.device_class == kind.name
    assert issubclass(load(kind.driver), Driver)
    assert importlib.util.find_spec(kind.back_end) is not None


@EVERY_KIND
def test_each_counter_is_of_the_guest_or_the_back_end(kind: DeviceKind) -> None:
    """Each one has a source."""
    guest = {"requests", "packets", "interrupts"}
    assert set(kind.counters) <= guest | set(stats.COUNTERS)


@EVERY_KIND
def test_a_vm_has_any_kind_alone(kind: DeviceKind) -> None:
    """Also one that the default VM lacks; the other kinds are left out with 0."""
    units = min(2, kind.max_rings // kind.rings_per_unit)
    rings = units * kind.rings_per_unit
    given = dict.fromkeys(KINDS, "0") | {kind.name: f"3x{rings}"}
    spec = validate.shape(given, memory="64M")
    assert spec.groups == (DeviceGroup(kind.name, 3, rings),)
    layout = GuestLayout(spec, [RamRegion(0, 64 << 20, -1)])
    assert [unit.unit for unit in layout.units[kind.name]] == list(range(3 * units))


@EVERY_KIND
@pytest.mark.parametrize("rings", range(1, 6))
def test_a_device_has_whole_units_of_rings(kind: DeviceKind, rings: int) -> None:
    """Half a queue pair is not a NIC's, and an entropy device has one queue."""
    group = DeviceGroup(kind.name, 1, rings)
    if rings <= kind.max_rings and rings % kind.rings_per_unit == 0:
        assert VmSpec(groups=(group,)).rings == rings
        return
    with pytest.raises(ShapeError, match=f"^--{kind.name} 1x{rings}: .*{kind.plural} "):
        VmSpec(groups=(group,))


@pytest.mark.parametrize("command", ["migrate", "run"])
@EVERY_KIND
def test_more_rings_than_a_kind_has_are_refused(command: str, kind: DeviceKind) -> None:
    """Before anything is started, in one line."""
    shape = f"3x{kind.max_rings + kind.rings_per_unit}"
    made = emu.get_command(click.Context(emu), command)
    assert made is not None
    done = CliRunner().invoke(made, [f"--{kind.name}", shape])
    assert isinstance(done.exception, OptionError)
    assert str(done.exception).startswith(f"--{kind.name} {shape}: {kind.plural} have ")


@EVERY_KIND
def test_a_back_end_program_refuses_the_same_numbers(kind: DeviceKind, tmp_path: Path) -> None:
    """In one line, with the same reason, before it makes its socket."""
    command = importlib.import_module(kind.back_end).command
    unit = kind.rings_per_unit
    refused = [
        rings for rings in (-1, 0, 1, unit + 1, kind.max_rings + unit) if kind.why_not(rings)
    ]
    assert len(refused) >= 3
    for rings in refused:
        path = tmp_path / "socket"
        done = CliRunner().invoke(command, ["--socket-path", str(path), "--num-queues", str(rings)])
        assert done.exit_code == 2
        assert f"--num-queues {rings}: {kind.why_not(rings)}\n" in done.output
        assert not path.exists()


def test_an_unknown_kind_is_an_error_that_lists_the_known_ones() -> None:
    """The line lists all rows."""
    with pytest.raises(ShapeError, match=f"unknown device class 'gpu': use {one_of()}"):
        VmSpec(groups=(DeviceGroup("gpu", 1, 1),))


@pytest.mark.parametrize("command", ["migrate", "run", "attach"])
@EVERY_KIND
def test_commands_have_an_option_for_each_kind(command: str, kind: DeviceKind) -> None:
    """With a help text that is made from the row, and that `--help` prints."""
    made = emu.get_command(click.Context(emu), command)
    assert made is not None
    (option,) = (found for found in made.params if f"--{kind.name}" in found.opts)
    assert isinstance(option, click.Option)
    expected = (
        f"Socket of a back-end; once for each {kind.title}."
        if command == "attach"
        else f"N {kind.plural} with R rings each, or 0. [default: {kind.default_text}]"
    )
    assert option.help == expected
    text = CliRunner().invoke(made, ["--help"]).output
    assert expected in " ".join(text.split())


def test_a_sweep_splits_devices_among_the_default_kinds() -> None:
    """In equal parts; the odd one is of the last kind."""
    spec = shape_of(5, 4, VmSpec())
    assert [(group.device_class, group.count) for group in spec.groups] == [("net", 2), ("blk", 3)]


PLUGIN = """
from emu.config.device_kinds import DeviceKind

ROW = DeviceKind(
    name="{name}",
    title="second entropy device",
    plural="second entropy devices",
    front_end="{module}.Front",
    back_end="backends.rng",
    driver="emu.guest.rng_driver.RngDriver",
    counters=("requests", "interrupts"),
)


def __getattr__(name):
    if name != "Front":
        raise AttributeError(name)
    from devices.rng import VhostUserRng

    class Front(VhostUserRng):
        device_class = ROW.name

    return Front
"""


def _install(folder: Path, name: str, target: str = "ROW") -> None:
    """A distribution with one entry point, in a directory that is put on the path."""
    (folder / "own_kind.py").write_text(PLUGIN.format(name=name, module="own_kind"))
    info = folder / "own_kind-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: own-kind\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n{name} = own_kind:{target}\n")


def _migrate(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            *(sys.executable, "-m", "emu.cli", "migrate", "--net", "0", "--blk", "0", "-q"),
            *("--vcpus", "2", "--memory", "256M", "--accel", "soft", "-s", "prewired"),
            *arguments,
        ],
        capture_output=True,
        text=True,
        timeout=PROGRAM_TIMEOUT,
        check=False,
        env={**os.environ, "PYTHONPATH": str(folder)},
    )


def test_a_kind_of_another_distribution_migrates(tmp_path: Path) -> None:
    """Its row is an entry point; VM processes and tables know it as any other."""
    _install(tmp_path, "rng2")
    done = _migrate(tmp_path, "--rng2", "2x1", "--json", "-")
    assert (done.returncode, done.stderr) == (0, "")
    (run,) = json.loads(done.stdout)["runs"]
    assert run["integrity"]["requests"] > 0
    assert {phase["class"] for phase in run["phases"]} == {"rng2", "vm"}


@pytest.mark.parametrize(
    ("name", "target", "text"),
    [("rng", "ROW", "'rng' exists already"), ("other", "PLUGIN", "is not a DeviceKind")],
)
def test_an_invalid_entry_point_is_an_error_of_one_line(
    tmp_path: Path, name: str, target: str, text: str
) -> None:
    """With its name; nothing is started."""
    _install(tmp_path, name, target)
    with (tmp_path / "own_kind.py").open("a") as module:
        module.write("PLUGIN = 1\n")
    done = _migrate(tmp_path, "--rng", "1x1")
    assert done.returncode == 1
    assert text in done.stderr
    assert done.stderr.count("\n") == 1
