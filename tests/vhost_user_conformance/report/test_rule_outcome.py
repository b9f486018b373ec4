"""Which rules a run decides."""

from __future__ import annotations

import pytest

from vhost_user_conformance.model.case import BACK_END
from vhost_user_conformance.model.result import CaseResult
from vhost_user_conformance.model.verdict import Verdict
from vhost_user_conformance.report.matrix import cases_of, rules
from vhost_user_conformance.report.rule_outcome import rule_outcome
from vhost_user_conformance.target import ROLES
from vhost_user_conformance.target import cases_of as cases_for

CASES = {case.id: case for role in ROLES for case in cases_for(role)}
#: A rule with several cases, none of which is about another rule, is what most tests need.
RULE = next(rule for rule in rules() if len(cases_of(rule, BACK_END)) > 2)
IDS = cases_of(RULE, BACK_END)


def outcome(*verdicts: Verdict) -> str:
    """Of the rule, when its first cases end like this, and the others were not run."""
    results = [
        CaseResult(CASES[case], verdict, "", "", 0.0)
        for case, verdict in zip(IDS, verdicts, strict=False)
    ]
    found = rule_outcome(BACK_END, results)
    return next((name for name, ids in found._asdict().items() if RULE.id in ids), "not counted")


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ((), "not counted"),
        ((Verdict.PASS,), "kept"),
        ((Verdict.PASS, Verdict.UNSUPPORTED, Verdict.OBSERVED), "kept"),
        ((Verdict.PASS, Verdict.PASS, Verdict.FAIL), "broken"),
        ((Verdict.ERROR, Verdict.FAIL), "broken"),
        ((Verdict.PASS, Verdict.ERROR), "undecided"),
        ((Verdict.UNSUPPORTED, Verdict.OBSERVED), "undecided"),
    ],
)
def test_a_rule(verdicts: tuple[Verdict, ...], expected: str) -> None:
    """One failure breaks it; a pass keeps it unless a case could not find out."""
    assert outcome(*verdicts) == expected


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("verdict", Verdict)
def test_each_rule_is_counted_once(role: str, verdict: Verdict) -> None:
    """However many cases there are."""
    results = [CaseResult(case, verdict, "", "", 0.0) for case in cases_for(role)]
    found = rule_outcome(role, results)
    ids = [each for kind in found for each in kind]
    assert sorted(ids) == sorted(rule.id for rule in rules() if cases_of(rule, role))
