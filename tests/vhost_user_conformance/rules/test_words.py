"""The words behind the rules: each is used, and each belongs to a rule that exists."""

from __future__ import annotations

from vhost_user_conformance.model.case import BACK_END, FRONT_END, Area
from vhost_user_conformance.report.matrix import rules
from vhost_user_conformance.rules import words
from vhost_user_conformance.rules.rule import Rule


def test_the_table_is_about_rules_and_words_that_exist() -> None:
    """No word and no rule is forgotten in it."""
    assert words._RULES.keys() <= {rule.id for rule in rules()}
    used = {key for keys in words._RULES.values() for key in keys if key}
    assert used == words.WORDS.keys()


def test_a_role_may_have_a_word_of_its_own() -> None:
    """Sending descriptors with the first byte is a "should"; to mix them up loses data."""
    back, front = Area("a", BACK_END, "s"), Area("a", FRONT_END, "s")
    for area in (back, front):
        area.case(1, "binds descriptors")(lambda _peer: None)
    rule = Rule("header-07", "descriptors", "97f24a0496")
    assert words.words_of(back.cases[0], [rule])["header-07"].word == words.LOSES
    assert words.words_of(front.cases[0], [rule]) == {}
