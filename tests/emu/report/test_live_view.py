"""The output of `emu run`: a table, lines, or none."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from emu.report import live_view
from emu.report.load_results import LoadReport, Sample
from tests.emu.fake_runs import machine_plan

SAMPLE = Sample(
    3.0,
    {},
    {
        "blk": {"requests": 12345.6, "interrupts": 10.0, "bytes_read": 1 << 20, "bytes_written": 0},
        "net": {"packets": 500.0, "interrupts": 20.0},
    },
)


def test_a_terminal_shows_a_table() -> None:
    """A row for each class; a counter that a class lacks is a dash."""
    out = io.StringIO()
    with live_view.TableView(Console(file=out, force_terminal=True, width=120)) as view:
        view.show(SAMPLE)
    text = out.getvalue()
    assert "12,346" in text
    assert "1 MiB" in text
    assert "packets/s" in text


@pytest.mark.parametrize("width", [120, 80, 70, 60, 50, 40])
def test_columns_are_left_out_where_there_is_no_room(width: int) -> None:
    """Those that are there are whole, and a line names the others."""
    out = io.StringIO()
    with live_view.TableView(Console(file=out, force_terminal=True, width=width)) as view:
        view.show(SAMPLE)
    text = " ".join(out.getvalue().split())
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    assert "12,346" in text
    assert ("1 MiB" in text) == (width >= 50)
    assert ("too narrow for: calls/s" in text) == (width < 80)


def test_a_pipe_receives_a_line_per_sample() -> None:
    """With the main counters of each class."""
    out = io.StringIO()
    with live_view.make(out, quiet=False) as view:
        view.show(SAMPLE)
    assert out.getvalue() == (
        "   3.0 s  blk 12346 requests/s, 10 interrupts/s; net 500 packets/s, 20 interrupts/s\n"
    )


def test_totals_are_in_the_units_of_the_table() -> None:
    """Bytes as sizes, the rest as numbers."""
    out = io.StringIO()
    totals = {"blk": {"requests": 12, "bytes_read": 3 << 20}, "net": {"packets_dropped": 2048}}
    live_view.show_report(LoadReport(machine_plan(), "soft", totals=totals), out)
    assert "blk: 12 requests, 3 MiB read\n" in out.getvalue()
    assert "net: 2048 packets dropped\n" in out.getvalue()


def test_quiet_prints_no_samples() -> None:
    """The output is empty."""
    out = io.StringIO()
    with live_view.make(out, quiet=True) as view:
        view.show(SAMPLE)
    assert out.getvalue() == ""
