"""The matrix of rules and cases: each rule has existing cases, and each case has a rule."""

from __future__ import annotations

import re

import pytest

from vhost_user.features import SPEC, ProtocolFeature
from vhost_user.messages import BACKEND_MESSAGES, FRONTEND_MESSAGES
from vhost_user_conformance.model.case import BACK_END, FRONT_END
from vhost_user_conformance.report.matrix import (
    KNOWN,
    cases_of,
    count,
    rules,
    rules_by_case,
)
from vhost_user_conformance.rules import CHAPTERS
from vhost_user_conformance.rules.messages import back_end_messages, features, front_end_messages
from vhost_user_conformance.rules.rule import (
    Chapter,
    Covered,
    NotFromOutside,
    RuleError,
)
from vhost_user_conformance.target import ROLES


def test_rules_have_ids_of_one_form_and_each_its_own() -> None:
    """Reports refer to them."""
    ids = [rule.id for rule in rules()]
    assert len(ids) == len(set(ids)) > 150
    assert all(re.fullmatch(r"[a-z_]+-\d\d", one) for one in ids)


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.name)
def test_a_rule_has_text_source_and_role(chapter: Chapter) -> None:
    """In one line each."""
    for rule in chapter.rules:
        assert rule.text
        assert rule.source, rule.id
        assert "\n" not in rule.text + rule.source
        assert rule.back or rule.front, rule.id
        for cover in (rule.back, rule.front):
            assert not isinstance(cover, NotFromOutside) or len(cover.why) > 20, rule.id


@pytest.mark.parametrize("role", ROLES)
def test_each_range_names_cases_that_there_are(role: str) -> None:
    """An empty range is an error that names its rule."""
    for rule in rules():
        cover = rule.cover(role)
        for word in cover.numbers.split() if isinstance(cover, Covered) else ():
            assert Covered(word).cases(role, KNOWN[role]), rule.id


@pytest.mark.parametrize("role", ROLES)
def test_each_case_belongs_to_a_rule(role: str) -> None:
    """A new case has to be added to `vhost_user_conformance/rules/`."""
    forgotten = [case for case, found in rules_by_case(role).items() if not found]
    assert not forgotten


def test_each_message_has_a_row_that_is_covered_for_both() -> None:
    """Or it has the reason why it is not; so has each protocol feature."""
    names = {rule.text.split(":")[0] for rule in front_end_messages.rules}
    assert names == {row.name for row in FRONTEND_MESSAGES.values()}
    assert len(names) == 45
    names = {rule.text.split(":")[0] for rule in back_end_messages.rules}
    assert names == {row.name for row in BACKEND_MESSAGES.values()}
    assert len(names) == 10
    names = {rule.text.split()[-1] for rule in features.rules if rule.text.startswith("Bit ")}
    assert names >= {*ProtocolFeature.__members__, *SPEC.bits}
    rows = [*front_end_messages.rules, *back_end_messages.rules]
    rows += [rule for rule in features.rules if rule.text.split()[-1] in names]
    for rule in rows:
        assert rule.back is not None, rule.id
        assert rule.front is not None, rule.id


def test_most_rules_are_covered() -> None:
    """Rules that no case can check are the exception."""
    for role in ROLES:
        counted = count(role)
        assert counted.rules == counted.covered + counted.not_from_outside
        assert counted.covered > 4 * counted.not_from_outside


def test_a_rule_without_its_cases_is_an_error_that_names_it() -> None:
    """As when a case was removed."""
    chapter = Chapter("chapter", "Title", "source")
    chapter.rule(1, "A rule", back="9999", front=NotFromOutside("no case can check it"))
    (rule,) = chapter.rules
    with pytest.raises(RuleError, match=r"chapter-01: no case of the back-end is in 9999\.\.9999"):
        cases_of(rule, BACK_END)
    assert cases_of(rule, FRONT_END) == []
