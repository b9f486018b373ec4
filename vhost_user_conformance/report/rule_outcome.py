"""Which rules of the protocol the results decide: kept, broken, or not decided."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vhost_user_conformance.model.verdict import Verdict
from vhost_user_conformance.report.matrix import cases_of, rules

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vhost_user_conformance.model.result import CaseResult


class RuleOutcome(NamedTuple):
    """Ids of the rules that the cases of a run are about.

    Attributes:
        broken: a case has failed.
        kept: a case has passed, none has failed, and none ended as ERROR.
        undecided: the others.
    """

    broken: tuple[str, ...]
    kept: tuple[str, ...]
    undecided: tuple[str, ...]


def rule_outcome(role: str, results: Iterable[CaseResult]) -> RuleOutcome:
    """The rules of this role that the cases of a run are about, by what the verdicts decide.

    Args:
        role: ``back-end`` or ``front-end``.
        results: one for each case that was run.
    """
    verdicts = {result.case.id: result.verdict for result in results}
    broken, kept, undecided = [], [], []
    for rule in rules():
        found = {verdicts[case] for case in cases_of(rule, role) if case in verdicts}
        if Verdict.FAIL in found:
            broken.append(rule.id)
        elif Verdict.PASS in found and Verdict.ERROR not in found:
            kept.append(rule.id)
        elif found:
            undecided.append(rule.id)
    return RuleOutcome(tuple(broken), tuple(kept), tuple(undecided))
