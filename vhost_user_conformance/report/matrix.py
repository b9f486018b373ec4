"""Rule by case: what covers each rule for each role, and which cases no rule names."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vhost_user_conformance.rules import CHAPTERS
from vhost_user_conformance.rules.rule import Covered, NotFromOutside, Rule, RuleError
from vhost_user_conformance.target import ROLES
from vhost_user_conformance.target import cases_of as cases_for

if TYPE_CHECKING:
    from collections.abc import Iterator

KNOWN = {role: [case.id for case in cases_for(role)] for role in ROLES}


class Count(NamedTuple):
    """How many rules a role has, and how many of them cases cover."""

    rules: int
    covered: int
    not_from_outside: int


def rules() -> Iterator[Rule]:
    """All rules, chapter by chapter."""
    for chapter in CHAPTERS:
        yield from chapter.rules


def cases_of(rule: Rule, role: str) -> list[str]:
    """Ids of the cases that cover a rule for this role.

    Raises:
        RuleError: the rule names an unknown case.
    """
    cover = rule.cover(role)
    if not isinstance(cover, Covered):
        return []
    try:
        return cover.cases(role, KNOWN[role])
    except RuleError as error:
        raise RuleError(f"{rule.id}: {error}") from None


def rules_by_case(role: str) -> dict[str, list[str]]:
    """Ids of the rules that each case is about; an empty list for a case that no rule names."""
    found: dict[str, list[str]] = {each: [] for each in KNOWN[role]}
    for rule in rules():
        for case in cases_of(rule, role):
            found[case].append(rule.id)
    return found


def count(role: str) -> Count:
    """How many rules this role has, and how many of them cases cover."""
    covers = [cover for rule in rules() if (cover := rule.cover(role)) is not None]
    excused = sum(isinstance(cover, NotFromOutside) for cover in covers)
    return Count(len(covers), len(covers) - excused, excused)
