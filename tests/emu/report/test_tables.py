"""The report of `emu migrate` as text."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import pytest
from rich.console import Console

from devices.procedure import Phase
from emu.config.plan import DiskFile
from emu.config.vm_spec import VmSpec
from emu.report import tables as text
from emu.report.cells import size
from emu.report.results import (
    Integrity,
    MigrationReport,
    MigrationResult,
    PhaseRow,
    Precopy,
)
from tests.emu.fake_runs import machine_plan


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
    """The report as printed to a pipe."""
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


def test_the_rfcs_own_figures_are_a_column_for_the_rfcs_vm() -> None:
    """Only with its costs and its devices."""
    plan = dataclasses.replace(machine_plan(), spec=VmSpec(), costs="rfc2021")
    output = render(MigrationReport(plan, "soft", [run("a", 200, BASE)]))
    assert cells(output, "src", "net", "get vring base") == ["1376.0", "100.0", "99.00"]
    assert "costs of rfc2021 injected" in output
    assert "RFC" not in render(MigrationReport(machine_plan(), "soft", [run("a", 200, BASE)]))


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


def test_sizes() -> None:
    """In the largest unit of which there is at least one."""
    assert size(180 << 30) == "180 GiB"
    assert size(1536) == "1.5 KiB"
    assert size(12) == "12 B"
