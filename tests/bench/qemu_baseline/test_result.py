"""The tables and the document of the control run."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bench.qemu_baseline.measurement import MigrationFigures, StopFigures
from bench.qemu_baseline.qemu_vm import STRATEGY, Qemu
from bench.qemu_baseline.result import Result
from bench.qemu_baseline.rounds import EMU, QEMU, Failure, Rounds, own_back_ends
from emu.config.plan import MachinePlan
from emu.config.vm_spec import DeviceGroup, VmSpec
from emu.orchestrator.signals import SignalWatcher

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from bench.qemu_baseline.measurement import MeasuredVm

PLAN = MachinePlan(
    VmSpec(1, 256 << 20, (DeviceGroup("net", 16, 32), DeviceGroup("blk", 24, 4))), accel="kvm"
)
SETS = [own_back_ends(PLAN.spec)]


def unused(_name: str, _plan: MachinePlan) -> AbstractContextManager[MeasuredVm]:
    raise AssertionError


def result(*, interrupted: bool = False) -> Result:
    measured = Rounds(PLAN, SETS, unused, stops=2, watcher=SignalWatcher(), report=lambda _: None)
    measured.loads += [0.5, 12.0]
    qemu = Qemu(("qemu",), "10.0.13", Path("/guest"), "tcg", ("no kvm",))
    names = ["qemu-2021", "prewired"]
    return Result(
        qemu, PLAN, SETS, measured, 5, 2, names, "command", ["a note"], interrupted=interrupted
    )


@pytest.fixture
def filled() -> Result:
    """With figures as long as they come."""
    made = result()
    qemu, emu = (made.measured.series["own"][vm] for vm in (QEMU, EMU))
    qemu.stops += [StopFigures(1000.0, 2000.0, 3000.0), StopFigures(3000.0, 4000.0, 7000.0)]
    emu.stops += [StopFigures(10.0, 20.0, 30.0), StopFigures(30.0, 40.0, 70.0)]
    qemu.migrations[STRATEGY] = [MigrationFigures(12000.0, 5000.0)]
    emu.migrations["qemu-2021"] = [MigrationFigures(6000.0, 5990.0)]
    emu.migrations["prewired"] = [MigrationFigures(20.0, 19.0)]
    return made


def printed(made: Result) -> list[str]:
    stream = io.StringIO()
    made.print(stream)
    return stream.getvalue().splitlines()


def row(lines: list[str], title: str) -> list[str]:
    line = next(line for line in lines if title in line)
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_both_vms_are_side_by_side_in_80_columns(filled: Result) -> None:
    lines = printed(filled)
    assert max(map(len, lines)) <= 80
    assert lines[2].startswith("load average 0.5 to 12.0 on ")
    stops = lines.index("stop and cont".ljust(len(lines[lines.index("") + 3])))
    assert row(lines[stops:], "heartbeat's gap") == ["heartbeat's gap", "5000.0", "50.00", "100.0x"]
    assert row(lines[stops:], "least to most")[1:3] == ["3000 to 7000", "30.0 to 70.0"]
    moves = next(number for number, line in enumerate(lines) if "live migration" in line)
    assert row(lines[moves:], "heartbeat's gap")[1:] == ["12000.0", "6000.0", "20.00", "600.0x"]
    assert row(lines[moves:], "reported downtime")[1:] == ["5000.0", "5990.0", "19.00", ""]


def test_what_was_not_measured_is_a_dash_and_failures_are_named() -> None:
    made = result(interrupted=True)
    made.measured.failures.append(Failure("own", QEMU, 2, "does not boot"))
    assert made.empty
    assert not made.complete
    lines = printed(made)
    assert row(lines, "heartbeat's gap")[1:] == ["-", "-", "-"]
    assert lines[-5:] == [
        "no kvm",
        "a note",
        "1 VM failed:",
        "  round 2, qemu on own: does not boot",
        "interrupted before the end of 5 rounds",
    ]


def test_the_document_has_all_figures(filled: Result) -> None:
    assert not filled.empty
    document = json.loads(json.dumps(filled.to_json()))
    assert document["qemu"] == {"version": "10.0.13", "accel": "tcg"}
    assert [each["vm"] for each in document["series"]] == [QEMU, EMU]
    assert document["series"][1]["migrations"]["prewired"] == [
        {"gap_ms": 20.0, "downtime_ms": 19.0}
    ]
    assert document["series"][0]["stops"][0] == {
        "stop_ms": 1000.0,
        "cont_ms": 2000.0,
        "gap_ms": 3000.0,
    }
