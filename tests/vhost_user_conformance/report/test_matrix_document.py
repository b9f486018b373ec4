"""The matrix as a document: each rule, what covers it, and the rules of each case."""

from __future__ import annotations

from vhost_user_conformance.model.case import BACK_END, FRONT_END
from vhost_user_conformance.report.matrix import count, rules, rules_by_case
from vhost_user_conformance.report.matrix_document import matrix
from vhost_user_conformance.rules.rule import NotFromOutside


def test_each_rule_and_each_case_has_a_row() -> None:
    """The totals stand above them."""
    lines = matrix().splitlines()
    for rule in rules():
        assert sum(line.startswith(f"| {rule.id} | ") for line in lines) == 1
    for role in (BACK_END, FRONT_END):
        counted, found = count(role), rules_by_case(role)
        numbers = (counted.rules, counted.covered, counted.not_from_outside, len(found))
        assert f"| {role}s | {' | '.join(map(str, numbers))} |" in lines
        for case, names in found.items():
            assert f"| {case} | {' '.join(names)} |" in lines


def test_a_rule_that_no_case_can_check_has_its_reason() -> None:
    """In the column of the role."""
    text = matrix()
    reasons = [
        cover.why
        for rule in rules()
        for cover in (rule.back, rule.front)
        if isinstance(cover, NotFromOutside)
    ]
    assert reasons
    assert all(f"*not testable from outside*: {why}" in text.replace("\\|", "|") for why in reasons)
