"""The report, as text."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

from rich.console import Console

from devices.procedure import Phase
from emu.config.plan import DiskFile
from emu.config.vm_spec import VmSpec
from emu.report import tables as text
from emu.report.results import (
    Integrity,
    MigrationReport,
    MigrationResult,
    PhaseRow,
    Precopy,
)
from tests.emu.sides import machine


def run(strategy: str, downtime: float, *rows: PhaseRow, repeat: int = 1) -> MigrationResult:
    """A completed run."""
    return MigrationResult(
        strategy,
        repeat,
        "completed",
        downtime_ms=downtime,
        guest_gap_ms=downtime + 1,
        network_gap_ms=None,
        commits=7,
        requests_in_flight_at_stop=9,
        phases=rows,
        precopy=Precopy(3, 5 << 20, 100.0),
        integrity=Integrity(requests=1000),
    )


def render(report: MigrationReport) -> str:
    """The report as a pipe sees it."""
    out = io.StringIO()
    text.show(report, out)
    return out.getvalue()


BASE = PhaseRow(Phase.GET_VRING_BASE, "net", 100.0, 99.0, 512, True)
FAST = PhaseRow(Phase.GET_VRING_BASE, "net", 10.0, 40.0, 512, True)
AHEAD = PhaseRow(Phase.SET_MEM_TABLE, "blk", 5.0, 6.0, 24, False)


def cells(output: str, *words: str) -> list[str]:
    """The cells of the row that begins with these words."""
    for line in output.splitlines():
        row = [cell.strip() for cell in line.strip("|").split("|")]
        if row[: len(words)] == list(words):
            return row[len(words) :]
    raise AssertionError(f"no row {words} in:\n{output}")


def test_each_strategy_has_a_column_and_is_compared_with_the_first() -> None:
    """Wall, sum and speed-up, phase by phase and in all."""
    output = render(MigrationReport(machine(), "soft", [run("a", 200, BASE), run("b", 20, FAST)]))
    assert cells(output, "src", "net", "get vring base") == [
        *("100.0", "99.00"),
        *("10.00", "40.00", "10.0x"),
    ]
    assert cells(output, "", "", "downtime") == ["200.0", "", "20.00", "", "10.0x"]


def test_what_ran_outside_of_the_blackout_is_apart() -> None:
    """With a table of its own, and none when there is nothing to show."""
    output = render(MigrationReport(machine(), "soft", [run("a", 200, BASE), run("b", 20, AHEAD)]))
    before, _, after = output.partition("outside of the blackout")
    assert "set mem table" not in before
    assert cells(after, "dst", "blk", "set mem table") == ["5.00", "6.00"]
    assert "outside" not in render(MigrationReport(machine(), "soft", [run("a", 200, BASE)]))


def test_downtime_has_three_figures_and_the_median_of_the_runs() -> None:
    """What is not known is a dash."""
    runs = [run("a", 10, BASE), run("a", 30, BASE, repeat=2), run("a", 20, BASE, repeat=3)]
    output = render(MigrationReport(machine(), "soft", runs))
    assert cells(output, "a")[:3] == ["20.00", "21.00", "-"]
    assert "a: pre-copy 3 rounds, 5 MiB; downtime 10.00 to 30.00 ms\n" in output
    assert cells(output, "a")[-1] == "3/3"


def test_integrity_is_one_line() -> None:
    """Of all runs together."""
    output = render(MigrationReport(machine(), "soft", [run("a", 1), run("b", 1)]))
    (line,) = [line for line in output.splitlines() if line.startswith("integrity")]
    assert "2000 requests, lost 0, duplicated 0, corrupted 0" in line
    assert line.endswith("packets: 0 sent, 0 dropped, 0 duplicated, 0 reordered")


def test_dropped_packets_are_said_to_be_allowed() -> None:
    """They are no lost requests, and the blackout is no part of every run."""
    integrity = Integrity(packets=11088, packets_lost=256)
    report = MigrationReport(machine(), "soft", [MigrationResult("a", 1, "completed")])
    report.runs[0] = dataclasses.replace(report.runs[0], integrity=integrity)
    text_of_all = "11088 sent, 256 dropped while the VM was down (as on a wire), 0 duplicated"
    assert text_of_all in render(report)
    assert "256 dropped (as on a wire), 0 duplicated" in text.integrity_line(integrity)


def test_a_roll_back_is_told_with_its_reason() -> None:
    """Even when no run completed."""
    failed = MigrationResult("a", 1, "rolled-back", error="net0: refused")
    output = render(MigrationReport(machine(), "soft", [failed]))
    assert "a, run 1: rolled-back: net0: refused" in output
    assert cells(output, "a")[0] == "-"


def test_the_rfcs_own_figures_stand_beside_its_own_vm() -> None:
    """Only under its costs and on its shape."""
    plan = dataclasses.replace(machine(), spec=VmSpec(), costs="rfc2021")
    output = render(MigrationReport(plan, "soft", [run("a", 200, BASE)]))
    assert cells(output, "src", "net", "get vring base") == ["1376.0", "100.0", "99.00"]
    assert "costs of rfc2021 injected" in output
    assert "RFC" not in render(MigrationReport(machine(), "soft", [run("a", 200, BASE)]))


def test_the_disk_is_told_with_its_digest() -> None:
    """How many of the migrations read what the host has."""
    plan = machine(disk=DiskFile(Path("/a/disk.img"), 512, writable=False))
    right = dataclasses.replace(run("a", 1), disk_sha256="ab12")
    wrong = dataclasses.replace(run("a", 1), disk_sha256="cd34")
    output = render(MigrationReport(plan, "soft", [right, wrong], disk_sha256="ab12"))
    lines = output.splitlines()
    at = lines.index("disk: the guest read all of /a/disk.img")
    assert "across 1 of 2 migrations with the digest that the host has" in lines[at + 1]
    assert lines[at + 2].strip() == "sha256 ab12"


def test_a_narrow_terminal_gets_no_sums() -> None:
    """A table that does not fit says less, and stays a table."""
    report = MigrationReport(machine(), "soft", [run("a", 200, BASE), run("b", 20, FAST)])
    console = text.console_for(io.StringIO())
    for width, expected in ((60, False), (150, True)):
        with console.capture() as capture:
            console.print(text.render(report, plain=False, width=width))
        output = capture.get()
        assert (" sum " in output) == expected
        assert ("a wider terminal also shows the sums" in output) != expected


def test_the_downtime_fits_an_ordinary_terminal() -> None:
    """No cell of it is cut off or broken; what pre-copy sent stands below."""
    report = MigrationReport(machine(), "soft")
    for name in ("qemu-2021", "threads", "prewired"):
        report.runs += [run(name, 1234, BASE), run(name, 1300, BASE, repeat=2)]
    console = Console(file=io.StringIO(), width=80)
    with console.capture() as capture:
        console.print(text.downtime_table(report, plain=False))
    (header,) = [line for line in capture.get().splitlines() if "strategy" in line]
    assert header.split()[1:6] == ["accounted", "guest", "network", "x", "commits"]
    assert "in flight   runs" in header
    assert "…" not in capture.get()
    assert "threads: pre-copy 3 rounds, 5 MiB; downtime 1234.0 to 1300.0 ms\n" in render(report)


def test_slower_is_not_green_and_noise_is_not_compared() -> None:
    """A factor below 1 has two digits."""
    short = [PhaseRow(Phase.FINAL_RAM, "vm", ms, ms, 1, True) for ms in (0.1, 0.4)]
    slow = [PhaseRow(Phase.GET_VRING_BASE, "net", ms, ms, 1, True) for ms in (100.0, 196.0)]
    runs = [run("a", 100, short[0], slow[0]), run("b", 110, short[1], slow[1])]
    report = MigrationReport(machine(), "soft", runs)
    assert cells(render(report), "src", "net", "get vring base")[-1] == "0.51x"
    assert cells(render(report), "src", "vm", "final ram")[-1] == ""
    console = Console(file=io.StringIO(), width=150, force_terminal=True, color_system="standard")
    with console.capture() as capture:
        console.print(text.render(report, plain=False, width=150))
    assert "\x1b[31m0.51x" in capture.get()
    assert "\x1b[1;33m0.91x" in capture.get()


def test_sizes() -> None:
    """In the largest unit that leaves a whole."""
    assert text.size(180 << 30) == "180 GiB"
    assert text.size(1536) == "1.5 KiB"
    assert text.size(12) == "12 B"
