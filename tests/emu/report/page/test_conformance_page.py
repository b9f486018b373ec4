"""The page of `emu conform`."""

from __future__ import annotations

import pytest

from emu.json_input import JsonInputError
from emu.report.page.conformance_page import page
from emu.report.page.content import BAD, GOOD, Cases
from tests.emu.report.page.samples import case, conformance, rows_of, table_of


def test_verdicts_are_counted_by_area() -> None:
    """In a chart and in a table; FAIL comes first."""
    made = page(conformance())
    assert made.sentence == (
        "3 cases were run on a vhost-user back-end; of the 2 that it supports it passes 1 and "
        "fails 1."
    )
    assert rows_of(table_of(made, "Verdicts by area")) == [
        ["framing", "1", "-", "1", "-", "-"],
        ["memory", "-", "-", "-", "-", "1"],
        ["all", "1", "0", "1", "0", "1"],
    ]
    assert made.outcome.tone == BAD
    (cases,) = made.sections[-1].blocks
    assert isinstance(cases, Cases)
    assert [each.verdict for each in cases.cases] == ["FAIL", "PASS", "UNSUPPORTED"]
    assert list(cases.areas) == ["framing", "memory"]


def test_known_failures_are_no_new_ones() -> None:
    """With --known."""
    made = page(conformance(case(1, "FAIL", known="bug 7"), case(2, "PASS")))
    assert (made.outcome.tone, made.outcome.text) == (
        GOOD,
        "No case failed but 1 that are known to.",
    )


def test_a_peer_that_does_not_work_is_said_first() -> None:
    """Its other verdicts show nothing."""
    made = page(conformance(not_sane=["VU-B-0001"]))
    assert made.outcome.text.startswith("The peer does not work")
    assert page(conformance(case(1, "PASS"), not_run=3)).outcome.text == "3 cases were not run."


def test_another_verdict_is_one_that_the_suite_could_not_find_out() -> None:
    """The file may be of a later version; the class of an element is of a known one."""
    (cases,) = page(conformance(case(1, "PASS onclick=x"))).sections[-1].blocks
    assert isinstance(cases, Cases)
    assert cases.cases[0].verdict == "ERROR"


def test_another_document_is_an_error() -> None:
    """With the place in its text."""
    with pytest.raises(JsonInputError, match=r"cases\[0\].ms"):
        page(conformance(case(1, "PASS", ms="long")))
