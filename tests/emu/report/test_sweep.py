"""`emu sweep`: VMs of several sizes and the table of their migrations."""

from __future__ import annotations

import dataclasses
import io

from rich.console import Console

from emu.config.plan import MigrationPlan
from emu.config.vm_spec import VmSpec
from emu.report.results import (
    COMPLETED,
    ROLLED_BACK,
    MigrationReport,
    MigrationResult,
)
from emu.report.sweep import document, heading, points_of, table
from emu.sweep.matrix import shape_of
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


def test_growth_is_against_the_smallest_vm_of_the_strategy() -> None:
    """By the medians of the completed runs."""
    points = [
        point for made in (report(4, 2.0), report(40, 6.0)) for point in points_of(made.to_json())
    ]
    assert [point.downtime_ms for point in points] == [10.0, 10.0]
    out = io.StringIO()
    console = Console(file=out, width=120)
    console.print(table(points, plain=True))
    lines = out.getvalue().splitlines()
    assert any("320 | 10x" in line and " 6.00 | 3.0x |" in line for line in lines)


def test_the_smallest_vm_is_not_always_the_first() -> None:
    """And a factor is not rounded to another one."""
    points = [
        point for made in (report(6, 3.0), report(4, 2.0)) for point in points_of(made.to_json())
    ]
    out = io.StringIO()
    Console(file=out, width=120).print(table(points, plain=True))
    lines = out.getvalue().splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert ["6", "48", "1.5x", "split", "10.00", "3.00", "1.5x", "5.00", "1.0x"] in rows
    assert ["4", "32", "1x", "split", "10.00", "2.00", "1.0x", "5.00", "1.0x"] in rows


def test_growth_is_of_one_accelerator() -> None:
    """Each has rows of its own."""
    soft, kvm = points_of(report(4, 2.0).to_json()), points_of(report(4, 8.0).to_json())
    both = [*soft, *(point._replace(accel="kvm") for point in kvm)]
    out = io.StringIO()
    Console(file=out, width=120).print(table(both, plain=True, shapes=True))
    lines = out.getvalue().splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    for accel, stop in (("soft", "2.00"), ("kvm", "8.00")):
        vm = ["net 2x8, blk 2x8", "32", "1x", accel, "split"]
        assert [*vm, "10.00", stop, "1.0x", "5.00", "1.0x"] in rows


def test_hosts_that_differ_are_named() -> None:
    """Their figures are not to be compared."""
    plan = MigrationPlan(machine_plan(), ("split",))
    here, there = report(4, 2.0).to_json(), report(40, 6.0).to_json()
    assert "\n" not in heading(plan, [here, there])
    there["host"] = {**there["host"], "cpus": 999}
    there["accel"] = "kvm"
    assert heading(plan, [here, there]).startswith("accelerator kvm, soft, ")
    assert heading(plan, [here, there]).endswith("compare the strategies of each VM only")
    whole = document(plan, [here, there], not_run=3)
    assert (whole["accel"], whole["host"], whole["not_run"]) == ("kvm, soft", here["host"], 3)
    assert [point["shape"] for point in whole["points"]] == [
        "net 2x8, blk 2x8",
        "net 20x8, blk 20x8",
    ]
