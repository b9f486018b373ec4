"""The table of phases: columns, comparisons, marks."""

from __future__ import annotations

import dataclasses
import io

import pytest
from rich.console import Console

from devices.procedure import Phase
from emu.config.vm_spec import VmSpec
from emu.report import tables as text
from emu.report.results import (
    MigrationReport,
    PhaseRow,
)
from tests.emu.fake_runs import machine_plan
from tests.emu.report.printed import AHEAD, BASE, FAST, cells, render, run


def test_each_strategy_has_a_column_and_is_compared_with_the_first() -> None:
    """Wall time, sum and speed-up of each phase and of the downtime."""
    output = render(
        MigrationReport(machine_plan(), "soft", [run("a", 200, BASE), run("b", 20, FAST)])
    )
    assert cells(output, "src", "net", "get vring base") == [
        *("100.0", "99.00"),
        *("10.00", "40.00", "10.0x"),
    ]
    assert cells(output, "", "", "downtime") == ["200.0", "", "20.00", "", "10.0x"]


def test_phases_outside_of_the_blackout_have_a_table_of_their_own() -> None:
    """If there are any."""
    output = render(
        MigrationReport(machine_plan(), "soft", [run("a", 200, BASE), run("b", 20, AHEAD)])
    )
    before, _, after = output.partition("outside of the blackout")
    assert "set mem table" not in before
    assert cells(after, "dst", "blk", "set mem table") == ["5.00", "6.00"]
    assert "outside" not in render(MigrationReport(machine_plan(), "soft", [run("a", 200, BASE)]))


def test_the_rfcs_own_figures_are_a_column_for_the_rfcs_vm() -> None:
    """Only with its costs and its devices."""
    plan = dataclasses.replace(machine_plan(), spec=VmSpec(), costs="rfc2021")
    output = render(MigrationReport(plan, "soft", [run("a", 200, BASE)]))
    assert cells(output, "src", "net", "get vring base") == ["1376.0", "100.0", "99.00"]
    assert "costs of rfc2021 injected" in output
    assert "RFC" not in render(MigrationReport(machine_plan(), "soft", [run("a", 200, BASE)]))


@pytest.mark.parametrize(
    ("repeats", "note"),
    [((1, 1), "one run each"), ((3, 3), "medians of 3 runs"), ((2, 3), "medians of 2 to 3 runs")],
)
def test_titles_distinguish_medians_and_single_runs(repeats: tuple[int, int], note: str) -> None:
    """In the tables of phases and of the downtime."""
    runs = [
        run(name, 10 * n, BASE, repeat=n)
        for name, count in zip("ab", repeats, strict=True)
        for n in range(1, count + 1)
    ]
    output = render(MigrationReport(machine_plan(), "soft", runs))
    assert f"in the blackout, ms ({note})" in output
    assert f"downtime, ms ({note})" in output
    assert output.count("last run: ") == sum(count > 1 for count in repeats)


def test_a_commit_for_two_classes_is_marked() -> None:
    """In both rows, with a legend for the mark."""
    both = [
        PhaseRow(Phase.DISABLE_HOST_NOTIFY, kind, 3.0, 3.0, 8, True, shared=True)
        for kind in ("net", "blk")
    ]
    output = render(MigrationReport(machine_plan(), "soft", [run("a", 9, BASE, *both)]))
    for kind in ("net", "blk"):
        assert cells(output, "src", kind, "disable host notify")[0] == "3.00*"
    assert cells(output, "src", "net", "get vring base")[0] == "100.0"
    assert "* one commit for several classes" in output
    assert "* one commit" not in render(
        MigrationReport(machine_plan(), "soft", [run("a", 9, BASE)])
    )


def test_slower_is_not_green_and_noise_is_not_compared() -> None:
    """A factor below 1 has two digits."""
    short = [PhaseRow(Phase.FINAL_RAM, "vm", ms, ms, 1, True) for ms in (0.1, 0.4)]
    slow = [PhaseRow(Phase.GET_VRING_BASE, "net", ms, ms, 1, True) for ms in (100.0, 196.0)]
    runs = [run("a", 100, short[0], slow[0]), run("b", 110, short[1], slow[1])]
    report = MigrationReport(machine_plan(), "soft", runs)
    assert cells(render(report), "src", "net", "get vring base")[-1] == "0.51x"
    assert cells(render(report), "src", "vm", "final ram")[-1] == "~"
    console = Console(file=io.StringIO(), width=150, force_terminal=True, color_system="standard")
    with console.capture() as capture:
        console.print(text.render(report, plain=False, width=150))
    assert "\x1b[31m0.51x" in capture.get()
    assert "\x1b[1;33m0.91x" in capture.get()
