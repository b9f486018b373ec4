"""`emu sweep`: VMs of several sizes and the table of their migrations."""

from __future__ import annotations

import dataclasses
import io

import pytest
from rich.console import Console

from emu.config.vm_spec import VmSpec
from emu.errors import OptionError
from emu.report.results import (
    COMPLETED,
    ROLLED_BACK,
    MigrationReport,
    MigrationResult,
)
from emu.report.sweep import (
    points_of,
    shape_of,
    sizes,
    table,
)
from tests.emu.fake_runs import machine_plan


def report(devices: int, stop_ms: float) -> MigrationReport:
    """Three runs, of which one was rolled back."""
    plan = dataclasses.replace(machine_plan(), spec=shape_of(devices, 8, VmSpec()))
    made = MigrationReport(plan, "soft")
    for number, extra in enumerate((0.0, 2.0), 1):
        made.runs.append(
            MigrationResult(
                "split", number, COMPLETED, downtime_ms=9 + extra, stop_ms=stop_ms, start_ms=5
            )
        )
    made.runs.append(MigrationResult("split", 3, ROLLED_BACK, error="no"))
    return made


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


def test_growth_is_against_the_smallest_vm_of_the_strategy() -> None:
    """By the medians of the completed runs."""
    points = [point for made in (report(4, 2.0), report(40, 6.0)) for point in points_of(made)]
    assert [point.downtime_ms for point in points] == [10.0, 10.0]
    out = io.StringIO()
    console = Console(file=out, width=120)
    console.print(table(points, plain=True))
    lines = out.getvalue().splitlines()
    assert any("320 | 10x" in line and " 6.00 | 3.0x |" in line for line in lines)


def test_the_smallest_vm_is_not_always_the_first() -> None:
    """And a factor is not rounded to another one."""
    points = [point for made in (report(6, 3.0), report(4, 2.0)) for point in points_of(made)]
    out = io.StringIO()
    Console(file=out, width=120).print(table(points, plain=True))
    lines = out.getvalue().splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert ["6", "48", "1.5x", "split", "10.00", "3.00", "1.5x", "5.00", "1.0x"] in rows
    assert ["4", "32", "1x", "split", "10.00", "2.00", "1.0x", "5.00", "1.0x"] in rows
