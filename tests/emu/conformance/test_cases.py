"""The cases as a catalogue: ids, areas, and the document that lists them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from emu.conformance.back_end import AREAS, cases
from emu.conformance.case import BACK_END, Area, collect
from emu.conformance.document import DOCUMENT, listing

DOCS = Path(__file__).parents[3] / "docs"


def test_ids_are_unique_and_of_one_form() -> None:
    """An id is what users write down."""
    ids = [case.id for case in cases()]
    assert len(ids) == len(set(ids)) >= 170
    assert all(re.fullmatch(r"VU-B-\d{4}", one) for one in ids)


def test_every_case_says_its_rule_and_where_it_is_written() -> None:
    """In one line each."""
    for case in cases():
        assert case.rule
        assert "\n" not in case.rule
        assert case.spec, case.id


def test_the_numbers_of_an_area_stand_together() -> None:
    """The first digits tell the area."""
    blocks = {area.name: {case.id[5:7] for case in area.cases} for area in AREAS}
    assert all(len(block) == 1 for block in blocks.values()), blocks
    assert len({next(iter(block)) for block in blocks.values()}) == len(blocks)


def test_an_id_that_is_given_twice_is_an_error() -> None:
    """It would be somebody else's."""
    area = Area("a", BACK_END, "s")
    area.case(1, "one")(lambda _be: None)
    area.case(1, "two")(lambda _be: None)
    with pytest.raises(ValueError, match="VU-B-0001 is the id of two cases"):
        collect([area])


def test_the_list_of_cases_is_up_to_date() -> None:
    """`make docs` writes it."""
    assert (DOCS / DOCUMENT).read_text() == listing()
