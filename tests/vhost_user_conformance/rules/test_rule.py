"""Rules: ranges of case numbers, and what covers a rule for each role."""

from __future__ import annotations

import pytest

from vhost_user_conformance.model.case import BACK_END, FRONT_END
from vhost_user_conformance.rules.rule import Chapter, Covered, NotFromOutside, RuleError


@pytest.mark.parametrize("numbers", ["12", "0101-0102", "0102..0101", "VU-B-0101"])
def test_an_invalid_range_is_an_error(numbers: str) -> None:
    """It does not select nothing."""
    with pytest.raises(RuleError, match="is not a"):
        Covered(numbers).ranges()


def test_a_range_has_the_cases_with_a_number_within_it() -> None:
    """In the order of the words, and of the known cases."""
    known = [f"VU-B-{number:04}" for number in (101, 102, 105, 201, 300)]
    assert Covered("0201 0101..0110").cases(BACK_END, known) == ["VU-B-0201", *known[:3]]
    with pytest.raises(RuleError, match=r"no case of the back-end is in 0103\.\.0104"):
        Covered("0103..0104").cases(BACK_END, known)


def test_a_role_is_covered_excused_or_not_bound() -> None:
    """As the arguments are."""
    chapter = Chapter("chapter", "Title", "source")
    chapter.rule(7, "A rule", back="0101..0102 0105", source="another")
    chapter.rule(8, "Another", front=NotFromOutside("it cannot be seen"))
    first, second = chapter.rules
    assert (first.id, first.source, second.source) == ("chapter-07", "another", "source")
    assert first.cover(FRONT_END) is second.cover(BACK_END) is None
    assert second.cover(FRONT_END) == NotFromOutside("it cannot be seen")
    covered = first.cover(BACK_END)
    assert isinstance(covered, Covered)
    assert covered.shown(BACK_END) == "B-0101..0102 B-0105"
