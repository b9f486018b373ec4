"""Results as JSON, and the evidence of a failure."""

from __future__ import annotations

from vhost_user_conformance.model.case import BACK_END, SANITY, Area
from vhost_user_conformance.model.result import (
    SHOWN,
    CaseResult,
    document,
    evidence,
    not_sane,
    summary,
)
from vhost_user_conformance.model.verdict import Verdict


def _results(*verdicts: Verdict) -> list[CaseResult]:
    area = Area("rings", BACK_END, "s")
    for number, _ in enumerate(verdicts):
        area.case(number, "rule")(lambda _be: None)
    return [
        CaseResult(case, verdict, "expected", "seen", 1.23456)
        for case, verdict in zip(area.cases, verdicts, strict=True)
    ]


def test_the_summary_counts_each_verdict() -> None:
    """Those without a case, too."""
    counts = summary(_results(Verdict.PASS, Verdict.FAIL, Verdict.PASS))
    assert counts == {"PASS": 2, "FAIL": 1, "UNSUPPORTED": 0, "OBSERVED": 0, "ERROR": 0}


def test_a_row_has_the_case_and_its_end() -> None:
    """As docs/conformance/README.md describes it."""
    whole = document(BACK_END, {"device": "blk"}, {"rings": 1}, _results(Verdict.FAIL))
    (row,) = whole["cases"]
    assert whole.keys() >= {"schema", "role", "peer", "offered", "cases", "summary"}
    assert row.keys() >= {"id", "area", "rule", "spec", "severity", "needs", "device"}
    assert (row["verdict"], row["expected"], row["seen"]) == ("FAIL", "expected", "seen")
    assert row["ms"] == 1.235


def test_a_run_whose_first_case_does_not_pass_proves_nothing() -> None:
    """The cases of the area sanity tell, whatever the other verdicts are."""
    area = Area(SANITY, BACK_END, "s")
    for number in (1, 9901):
        area.case(number, "rule")(lambda _be: None)
    first, last = area.cases
    others = _results(Verdict.PASS, Verdict.FAIL)
    sane = [CaseResult(case, Verdict.PASS, "", "", 1.0) for case in (first, last)]
    assert not_sane([*sane, *others]) == []
    insane = CaseResult(last, Verdict.UNSUPPORTED, "", "no ring", 1.0)
    assert not_sane([sane[0], *others, insane]) == [insane]
    assert document(BACK_END, {}, {}, [insane])["not_sane"] == ["VU-B-9901"]


def test_a_case_without_a_class_of_device_makes_up_for_one_that_needs_it() -> None:
    """If it passes; and the last ones do not make up for the first ones."""
    area = Area(SANITY, BACK_END, "s")
    for number in (1, 2, 9901, 9902):
        area.case(number, "rule")(lambda _be: None)
    first, other, last, _ = area.cases
    unknown = CaseResult(first, Verdict.UNSUPPORTED, "", "use --device", 1.0)
    for verdict, insane in (
        (Verdict.PASS, []),
        (Verdict.FAIL, ["VU-B-0001", "VU-B-0002"]),
        (Verdict.UNSUPPORTED, ["VU-B-0001", "VU-B-0002"]),
    ):
        results = [unknown, CaseResult(other, verdict, "", "", 1.0)]
        assert [result.case.id for result in not_sane(results)] == insane
    failed = CaseResult(first, Verdict.FAIL, "", "none served", 1.0)
    assert not_sane([failed, CaseResult(other, Verdict.PASS, "", "", 1.0)]) == [failed]
    assert not_sane([unknown, CaseResult(last, Verdict.PASS, "", "", 1.0)]) == [unknown]


def test_evidence_shows_the_last_lines_of_a_long_transcript() -> None:
    """And how many it omits."""
    lines = [str(number) for number in range(SHOWN + 3)]
    shown = evidence("what was seen", lines).splitlines()
    assert shown[0] == "what was seen"
    assert shown[1] == "... (3 lines before)"
    assert shown[2:] == lines[3:]
    assert evidence("seen", lines[:2]).splitlines() == ["seen", "0", "1"]
