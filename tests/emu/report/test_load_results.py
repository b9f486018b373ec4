"""The results of `emu run`: the document, and the source's report of an incoming migration."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import pytest

from emu.config.ring_use import these_rings
from emu.config.vm_spec import with_use
from emu.report.load_results import IncomingReport, LoadReport, Sample
from emu.report.results import Integrity
from tests.emu.fake_runs import machine_plan

if TYPE_CHECKING:
    from emu.report.load_results import Counts

REPORT: dict[str, Any] = {
    "strategy": "split",
    "downtime_ns": 12_345_678,
    "downtime_error_ns": 250_000,
    "precopy": {"bytes": 3 << 20, "rounds": 2},
    "served": 99,
}


def test_a_report_has_the_figures_of_the_source() -> None:
    report = IncomingReport.from_json(REPORT)
    assert str(report) == (
        "the VM has arrived: split, downtime 12.35 ±0.25 ms, 3.0 MiB in 2 rounds"
    )
    assert report.to_json() == {
        "strategy": "split",
        "downtime_ms": 12.345678,
        "downtime_error_ms": 0.25,
        "rounds": 2,
        "bytes": 3 << 20,
        "served_before": 99,
    }


def test_on_one_clock_there_is_no_error() -> None:
    report = IncomingReport.from_json({**REPORT, "downtime_error_ns": None})
    assert report.downtime_error_ms is None
    assert "±" not in str(report)


@pytest.mark.parametrize("key", REPORT)
def test_a_report_that_lacks_a_figure_has_none(key: str) -> None:
    """The VM runs here nevertheless."""
    for wrong in ({name: value for name, value in REPORT.items() if name != key}, {}):
        report = IncomingReport.from_json(wrong)
        assert report == IncomingReport()
        assert str(report) == "the VM has arrived; the source sent no completion report"
    if key != "strategy":
        assert IncomingReport.from_json({**REPORT, key: "x"}) == IncomingReport()


def test_the_document_has_rates_for_a_second() -> None:
    """And an arrival only where a VM has arrived."""
    sample = Sample(1.00049, {"blk": {"requests": 5}}, {"blk": {"requests": 4.96}})
    report = LoadReport(machine_plan(), "soft", 1.5, [sample], sample.totals, Integrity(requests=5))
    document = report.to_json()
    assert document["samples"] == [{"seconds": 1.0, "blk": {"requests_per_s": 5.0}}]
    assert (document["seconds"], document["totals"]) == (1.5, {"blk": {"requests": 5}})
    assert document["integrity"]["requests"] == 5
    assert "arrival" not in document
    report.arrival = IncomingReport.from_json(REPORT)
    assert report.to_json()["arrival"]["served_before"] == 99


@pytest.mark.parametrize(
    ("load", "totals", "nothing"),
    [
        ("heavy", {"blk": {"requests": 0, "interrupts": 0}, "net": {"packets": 0}}, True),
        ("light", {}, True),
        ("light", {"blk": {"requests": 0}, "net": {"packets": 1}}, False),
        ("none", {"blk": {"requests": 0}}, False),
    ],
)
def test_a_run_under_load_that_did_nothing(load: str, totals: Counts, *, nothing: bool) -> None:
    """Without a load, or without a ring in use, there is nothing to do."""
    plan = dataclasses.replace(machine_plan(), load=load)
    assert LoadReport(plan, "soft", totals=totals).did_nothing is nothing
    groups = with_use(plan.spec.groups, {"net": these_rings([]), "blk": these_rings([])})
    plan = dataclasses.replace(plan, spec=dataclasses.replace(plan.spec, groups=groups))
    assert not LoadReport(plan, "soft", totals=totals).did_nothing
