"""Options that describe a VM, and the plan from them."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from emu.commands.options import MachineOptions, machine_plan
from emu.commands.run import run
from emu.commands.sweep import sweep
from emu.config.device_kinds import KINDS
from emu.config.plan import MachinePlan
from emu.config.vm_spec import DeviceGroup, VmSpec
from emu.errors import PreflightError

if TYPE_CHECKING:
    from pathlib import Path

SMALL = ("--net", "1x2", "--blk", "0", "--vcpus", "2", "--memory", "256M", "--accel", "soft")


def options(*arguments: str) -> MachineOptions:
    return MachineOptions.of(run.make_context("run", list(arguments)).params)


def test_the_defaults_are_those_of_the_plan() -> None:
    """Except for the accelerator, which the test sets."""
    spec = VmSpec(2, 256 << 20, (DeviceGroup("net", 1, 2),))
    assert machine_plan(options(*SMALL)) == MachinePlan(spec=spec, accel="soft")


def test_each_option_is_in_the_plan() -> None:
    plan = machine_plan(
        options(
            *SMALL,
            *("--load", "light", "--dirty-rate", "20M", "--costs", "rfc2021"),
            *("--control", "shared", "--stop-policy", "drain", "--stop-time", "20ms"),
        )
    )
    assert (plan.load, plan.dirty_rate, plan.costs) == ("light", 20 << 20, "rfc2021")
    assert (plan.control, plan.stop_policy, plan.stop_time) == ("shared", "drain", 20_000_000)


def test_paths_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other processes have another working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    plan = machine_plan(options(*SMALL, "--images", "images", "--plugin", "own.py"))
    assert (plan.images, plan.plugins) == (tmp_path / "images", (tmp_path / "own.py",))


def test_a_command_without_device_options_has_no_devices_yet() -> None:
    """`emu sweep` adds them."""
    own = MachineOptions.of(sweep.make_context("sweep", []).params)
    assert own.devices == dict.fromkeys(KINDS)
    assert (own.vm_file, own.images) == (None, None)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--stop-time", "soon"), "--stop-time 'soon' is not a duration"),
        (("--disk", "/none"), "--disk /none: the VM has no disk"),
        (("--write",), "--write"),
        (("--json", "/none/x"), "there is no directory /none"),
        (("--vm", "/none.toml"), "--vm describes the whole VM: leave --net out"),
    ],
)
def test_an_invalid_option_is_refused_before_a_process_is_started(
    arguments: tuple[str, ...], text: str
) -> None:
    with pytest.raises(PreflightError, match=text):
        machine_plan(options(*SMALL, *arguments))
