"""The report of `emu migrate` as text."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import pytest
from rich.console import Console

from devices.procedure import Phase
from emu.config.backend_commands import BackEndCommand
from emu.config.plan import DiskFile
from emu.config.ring_use import first_units, these_rings
from emu.config.vm_spec import DeviceGroup, VmSpec
from emu.report import tables as text
from emu.report.proofs import Proof
from emu.report.results import (
    Integrity,
    MigrationReport,
    MigrationResult,
    PhaseRow,
    Precopy,
)
from tests.emu.fake_runs import machine_plan
from tests.emu.report.printed import BASE, FAST, cells, render, run


def test_downtime_has_three_figures_and_the_median_of_the_runs() -> None:
    """An unknown figure is a dash."""
    runs = [run("a", 10, BASE), run("a", 30, BASE, repeat=2), run("a", 20, BASE, repeat=3)]
    output = render(MigrationReport(machine_plan(), "soft", runs))
    assert cells(output, "a")[:3] == ["20.00", "21.00", "-"]
    assert "a: last run: pre-copy 3 rounds, 5 MiB; downtime 10.00 to 30.00 ms in 3 runs\n" in output
    assert cells(output, "a")[-1] == "3/3"


def test_integrity_is_one_line() -> None:
    """Of all runs together."""
    output = render(MigrationReport(machine_plan(), "soft", [run("a", 1), run("b", 1)]))
    (line,) = [line for line in output.splitlines() if line.startswith("integrity")]
    assert "2000 requests, lost 0, duplicated 0, corrupted 0" in line
    assert line.endswith("packets: 0 sent, 0 dropped, 0 duplicated, 0 reordered")


def test_the_integrity_line_marks_dropped_packets_as_allowed() -> None:
    """With and without a blackout."""
    integrity = Integrity(packets=11088, packets_lost=256)
    report = MigrationReport(machine_plan(), "soft", [MigrationResult("a", 1, "completed")])
    report.runs[0] = dataclasses.replace(report.runs[0], integrity=integrity)
    text_of_all = "11088 sent, 256 dropped while the VM was down (as on a wire), 0 duplicated"
    assert text_of_all in render(report)
    assert "256 dropped (as on a wire), 0 duplicated" in text.integrity_line(integrity)


def test_the_line_on_the_proof() -> None:
    """Where something was not compared, or a back-end is not this project's."""
    whole, none = Integrity(), Integrity(proofs=frozenset())
    log = "proof: the guest's request log"
    assert text.proof_line(machine_plan(), whole) == ""
    assert text.proof_line(machine_plan(), none) == log
    other_nics = machine_plan(back_ends={"net": BackEndCommand.parse("net", "x {socket}")})
    assert text.proof_line(other_nics, whole) == ", ".join([log, *Proof])


def test_a_roll_back_is_reported_with_its_reason() -> None:
    """Even if no run completed."""
    failed = MigrationResult("a", 1, "rolled-back", error="net0: refused")
    output = render(MigrationReport(machine_plan(), "soft", [failed]))
    assert "a, run 1: rolled-back: net0: refused" in output
    assert cells(output, "a")[0] == "-"


def test_advice_is_printed_once_for_each_reason() -> None:
    """With the runs that have the reason."""
    notes = {"devices": "the devices take too long. Raise it", "rounds": "memory is too fast"}
    runs = [
        MigrationResult("a", n, "completed", precopy=Precopy(reason=reason, note=notes[reason]))
        for n, reason in enumerate(["devices", "rounds", *["devices"] * 6], 1)
    ]
    output = render(MigrationReport(machine_plan(), "soft", runs))
    for note in notes.values():
        assert output.count(note) == 1
    flat = " ".join(output.split())
    assert "the same reason holds for a run 3, a run 4, a run 5, a run 6, a run 7, a run 8" in flat


def test_the_report_has_the_digest_of_the_disk() -> None:
    """And the number of migrations across which the guest read the same disk."""
    plan = machine_plan(disk=DiskFile(Path("/a/disk.img"), 512, writable=False))
    right = dataclasses.replace(run("a", 1), disk_sha256="ab12")
    wrong = dataclasses.replace(run("a", 1), disk_sha256="cd34")
    output = render(MigrationReport(plan, "soft", [right, wrong], disk_sha256="ab12"))
    lines = output.splitlines()
    at = lines.index("disk: the guest read all of /a/disk.img")
    assert "across 1 of 2 migrations with the digest that the host has" in lines[at + 1]
    assert lines[at + 2].strip() == "sha256 ab12"


STEPS = [phase for phase in Phase if phase.side in ("src", "dst")]
STRATEGIES = ("qemu-2021", "threads", "split", "prewired", "handover", "qemu-now")


def big_report(count: int) -> MigrationReport:
    """Every phase of both classes, by so many strategies."""
    rows = [
        PhaseRow(phase, kind, 1234.5, 1234.5, 512, in_blackout, shared=True)
        for phase in STEPS
        for kind in ("net", "blk")
        for in_blackout in (True, False)
    ]
    return MigrationReport(
        machine_plan(), "soft", [run(name, 5600, *rows) for name in STRATEGIES[:count]]
    )


def on_terminal(report: MigrationReport, width: int) -> str:
    """The report as printed to a terminal of that width."""
    console = Console(file=io.StringIO(), width=width)
    with console.capture() as capture:
        console.print(text.render(report, plain=False, width=width))
    return capture.get()


def test_a_narrow_terminal_shows_no_sums() -> None:
    """A table that does not fit has fewer columns, and a note names `--wide`."""
    report = MigrationReport(machine_plan(), "soft", [run("a", 200, BASE), run("b", 20, FAST)])
    for width, expected in ((60, False), (150, True)):
        output = on_terminal(report, width)
        assert (" sum " in output) == expected
        assert ("--wide" in output) != expected


@pytest.mark.parametrize("width", [80, 100, 132])
@pytest.mark.parametrize("count", range(1, len(STRATEGIES) + 1))
def test_no_table_is_cut_or_broken_on_a_terminal(count: int, width: int) -> None:
    """Strategies that do not fit are in a further table, again with the first one."""
    output = on_terminal(big_report(count), width)
    lines = output.splitlines()
    assert max(len(line.rstrip()) for line in lines) <= width
    assert "…" not in output
    phases = [line for line in lines if line.strip().startswith(("src  ", "dst  "))]
    assert len(phases) % (2 * len(STEPS)) == 0, "each row of each table is one line"
    titles = [line.split() for line in lines if line.lstrip().startswith("side ")]
    for name in STRATEGIES[:count]:
        assert any(name in title for title in titles)


@pytest.mark.parametrize("columns", ["20", "80", ""])
def test_no_cell_is_cut_if_the_output_is_not_a_terminal(
    columns: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All columns and sums, a line for each row, regardless of COLUMNS and TERM."""
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("TERM", "dumb")
    output = render(big_report(len(STRATEGIES)))
    row = cells(output, "src", "net", "get vring base")
    assert len(row) == 3 * len(STRATEGIES) - 1
    assert not any("…" in cell or not cell for cell in row)
    assert "--wide" not in output


def test_wide_prints_all_columns_on_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """The terminal wraps the lines, and no cell is cut."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("FORCE_COLOR", "1")
    out = io.StringIO()
    text.show(big_report(4), out, wide=True)
    (header, *_) = [line for line in out.getvalue().splitlines() if "qemu-2021" in line]
    assert header.count("sum") == 4
    assert "prewired" in header


def test_the_downtime_fits_an_ordinary_terminal() -> None:
    """No cell is cut off or broken; the lines on pre-copy are below it."""
    report = MigrationReport(machine_plan(), "soft")
    for name in ("qemu-2021", "threads", "prewired"):
        report.runs += [run(name, 1234, BASE), run(name, 1300, BASE, repeat=2)]
    console = Console(file=io.StringIO(), width=80)
    with console.capture() as capture:
        console.print(text.downtime_table(report, plain=False))
    (header,) = [line for line in capture.get().splitlines() if "strategy" in line]
    assert header.split()[1:6] == ["accounted", "guest", "network", "x", "commits"]
    assert "in flight   runs" in header
    assert "…" not in capture.get()
    assert (
        "threads: last run: pre-copy 3 rounds, 5 MiB; downtime 1234.0 to 1300.0 ms in 2 runs\n"
        in render(report)
    )


def test_the_first_line_names_the_rings_in_use() -> None:
    """Of the kinds of which the guest does not use all rings."""
    groups = (
        DeviceGroup("net", 2, 8, first_units(2, 2)),
        DeviceGroup("blk", 3, 4, these_rings([1, 3])),
        DeviceGroup("rng", 1, 1),
    )
    line = text.vm_line(machine_plan(spec=VmSpec(1, 1 << 30, groups)), "soft")
    assert (
        "2 net x 8 rings (used: 0-3, the others disabled), 3 blk x 4 rings (used: 1,3), "
        "1 rng x 1 rings; " in line
    )


def test_other_back_ends_have_a_line_each() -> None:
    """A command that has a name is told by its name."""
    plan = machine_plan(
        back_ends={
            "net": BackEndCommand.parse("net", "testpmd"),
            "blk": BackEndCommand.parse("blk", "my-disk '{image} x' {socket}"),
        },
        listening={"rng": {"A": ("a.sock",), "B": ("b.sock",)}},
    )
    output = render(MigrationReport(plan, "soft", [run("a", 1)]))
    assert output.splitlines()[1:4] == [
        "back-ends of net: testpmd",
        "back-ends of blk: my-disk '{image} x' {socket}",
        "back-ends of rng: sockets",
    ]


def test_the_size_of_a_vm() -> None:
    """One of a kind is no plural."""
    groups = (DeviceGroup("net", 2, 8), DeviceGroup("blk", 1, 4))
    assert text.size_text(VmSpec(4, 1 << 30, groups)) == "4 vCPUs, 3 devices, 20 rings"
    one = VmSpec(1, 1 << 30, (DeviceGroup("rng", 1, 1),))
    assert text.size_text(one) == "1 vCPU, 1 device, 1 ring"
