"""The severities are tied to the words of the text."""

from __future__ import annotations

import re

import pytest

from vhost_user_conformance.model.verdict import Severity
from vhost_user_conformance.report.words_document import founded, severities
from vhost_user_conformance.rules.words import KILLS, LOSES
from vhost_user_conformance.target import ROLES, cases_of

#: The key words that make a rule a MUST.
KEY_WORDS = re.compile("must|must not|shall|has to|needs to|mandatory", re.IGNORECASE)


@pytest.mark.parametrize("role", ROLES)
def test_each_must_has_a_word_of_the_text_behind_it(role: str) -> None:
    """Or the loss of data or of a program; any other case is a SHOULD or a MAY."""
    without = [case for case, words in founded(role).items() if not words]
    assert not without, f"no word in rules/words.py: make them SHOULD or MAY: {without}"
    for words in founded(role).values():
        for word in words.values():
            assert word.word in (LOSES, KILLS) or KEY_WORDS.fullmatch(word.word), word
            assert re.fullmatch(r"[0-9a-f]{10}|virtio 1\.3", word.commit), word
            assert word.section
            assert word.why


def test_the_document_has_a_row_for_each_must() -> None:
    """And for no other case."""
    rows = re.findall(r"^\| (VU-[BF]-\d{4}) \|", severities(), re.MULTILINE)
    musts = [case.id for role in ROLES for case in cases_of(role) if case.severity is Severity.MUST]
    assert sorted(rows) == sorted(musts)
