"""An accelerator is a file and a row: options, checks and `emu doctor` use the table."""
# ruff: noqa: D102, D103 - the name of a test, or of a part of one, is its documentation

from __future__ import annotations

import click
import pytest

from emu.commands import host_checks
from emu.commands.migrate import migrate
from emu.config.vm_spec import DeviceGroup, VmSpec
from emu.errors import EmuError, PreflightError
from emu.machine.accel import registry
from emu.machine.accel.base import Limits
from emu.machine.accel.soft import SoftAccelerator
from emu.orchestrator import host_limits

SMALL = VmSpec(2, 1 << 30, (DeviceGroup("blk", 1, 1),))


class Tiny(SoftAccelerator):
    """Supports one vCPU and eight rings."""

    name = "tiny"

    @classmethod
    def find_limits(cls, vcpus: int) -> Limits:
        return Limits(max_vcpus=1, max_routes=8, max_ioeventfds=9 - vcpus)


class Absent(SoftAccelerator):
    """Does not work on this host."""

    name = "absent"

    @classmethod
    def find_limits(cls, vcpus: int) -> Limits:
        raise EmuError("its device is missing: load its module")


@pytest.fixture
def others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two more rows, at the beginning of the table."""
    ours = {
        made.name: registry.Row(__name__, made.__name__, "of a test") for made in (Absent, Tiny)
    }
    monkeypatch.setattr(registry, "ACCELERATORS", ours | registry.ACCELERATORS)


@pytest.mark.parametrize("name", registry.ACCELERATORS)
def test_a_row_names_a_class_with_the_same_name(name: str) -> None:
    assert registry._class_of(name).name == name


def test_the_option_offers_each_row_and_describes_it() -> None:
    option = next(option for option in migrate.params if option.name == "accel")
    assert isinstance(option, click.Option)
    assert isinstance(option.type, click.Choice)
    assert list(option.type.choices) == ["auto", *registry.ACCELERATORS]
    assert option.help is not None
    for name, row in registry.ACCELERATORS.items():
        assert f"{name} ({row.summary})" in option.help


@pytest.mark.parametrize("name", registry.ACCELERATORS)
def test_a_machine_that_is_too_large_is_an_error_with_advice(name: str) -> None:
    try:
        most = registry.limits(name, vcpus=2)
    except EmuError as error:
        pytest.skip(str(error))
    registry.check(name, vcpus=2, rings=min(most.max_routes, most.max_ioeventfds))
    for vcpus, rings in ((most.max_vcpus + 1, 1), (2, 1 + most.max_routes), (2, 1 << 20)):
        with pytest.raises(EmuError, match=f"{name} has .*: ask for fewer"):
            registry.check(name, vcpus=vcpus, rings=rings)


@pytest.mark.usefixtures("others")
@pytest.mark.parametrize(
    ("vcpus", "rings", "line"),
    [
        (2, 1, "2 vCPUs: tiny has at most 1 on this host: ask for fewer, or use --accel "),
        (1, 9, "9 rings: tiny has 8 interrupt routes: ask for fewer rings, or use --accel "),
        (1, 1 << 20, "8 interrupt routes: ask for fewer rings$"),
    ],
)
def test_advice_names_an_accelerator_that_supports_the_machine(
    vcpus: int, rings: int, line: str
) -> None:
    with pytest.raises(EmuError, match=line):
        registry.check("tiny", vcpus=vcpus, rings=rings)


@pytest.mark.usefixtures("others")
def test_auto_is_the_first_row_that_works_and_supports_the_machine() -> None:
    assert registry.resolve("auto", vcpus=1, rings=8) == "tiny"
    assert registry.resolve("auto", vcpus=2, rings=8) in ("kvm", "soft")
    assert registry.resolve("auto", vcpus=1 << 20) == "soft"
    assert registry.resolve("absent") == "absent"


@pytest.mark.usefixtures("others")
def test_the_checks_before_a_run_use_the_rows_limits() -> None:
    host_limits.check_accelerator("auto", SMALL)
    with pytest.raises(PreflightError, match="--accel absent: its device is missing"):
        host_limits.check_accelerator("absent", SMALL)
    with pytest.raises(PreflightError, match="--accel tiny: 2 vCPUs"):
        host_limits.check_accelerator("tiny", SMALL)


@pytest.mark.usefixtures("others")
@pytest.mark.parametrize(("name", "good"), [("absent", False), ("tiny", True), ("soft", True)])
def test_doctor_describes_a_row(name: str, good: bool) -> None:
    finding = host_checks._accelerator(name)
    assert finding.good == good
    assert finding.here
    assert good or "--accel auto is tiny here" in finding.advice
