"""The catalogue fits the code: a change of an endpoint that breaks a mutant fails here."""

from __future__ import annotations

import ast
import re
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.mutants import document
from tests.mutants.catalogue import DEVICES, KINDS, ROOT, CatalogueError, find, mutants
from vhost_user_conformance.target import ROLES, cases_of

if TYPE_CHECKING:
    from pathlib import Path

CASES = {case.id: case for role in ROLES for case in cases_of(role)}
#: Modules that only one role uses.
OTHER_END = {
    "back-end": ("devices.", "emu.", "vhost_user.frontend", "vhost_user.virtqueue.split_driver"),
    "front-end": ("backends.", "vhost_user.backend", "vhost_user.virtqueue.split_device"),
}


def test_there_are_enough_of_both_ends() -> None:
    """Each name is unique."""
    assert Counter(mutant.role for mutant in mutants())["back-end"] >= 60
    assert Counter(mutant.role for mutant in mutants())["front-end"] >= 20
    names = Counter(mutant.name for mutant in mutants())
    assert [name for name, count in names.items() if count > 1] == []
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)+", name) for name in names)


@pytest.mark.parametrize("role", KINDS)
def test_there_are_five_of_each_kind(role: str) -> None:
    """A kind is one that `KINDS` has for the role."""
    of_role = Counter(mutant.kind for mutant in mutants() if mutant.role == role and mutant.kind)
    assert set(of_role) <= set(KINDS[role])
    assert all(count >= 5 for count in of_role.values()), of_role


@pytest.mark.parametrize("module", sorted({mutant.module for mutant in mutants()}))
def test_each_is_one_line_of_its_module(module: str) -> None:
    """The text occurs once, one line differs at most, and the result compiles."""
    for mutant in (each for each in mutants() if each.module == module):
        gone, come = mutant.change()
        assert len(gone) <= 1, mutant.name
        assert len(come) <= 1, mutant.name
        assert gone != come, mutant.name
        ast.parse(mutant.apply(mutant.path.read_text()), mutant.name)
        assert not mutant.module.startswith(OTHER_END[mutant.role]), mutant.name


def test_the_catchers_are_cases_of_its_role_and_device() -> None:
    """Others would be skipped."""
    for mutant in mutants():
        assert mutant.device in DEVICES, mutant.name
        assert mutant.caught_by, mutant.name
        assert mutant.mistake.endswith("."), mutant.name
        for case in map(CASES.__getitem__, mutant.caught_by):
            assert case.role == mutant.role, (mutant.name, case.id)
            assert case.device in ("", mutant.device), (mutant.name, case.id)


def test_a_text_that_is_not_there_once_is_an_error() -> None:
    """The message names the mutant, the module and the count."""
    mutant = mutants()[0]._replace(original="import")
    with pytest.raises(
        CatalogueError, match=rf"{mutant.name}: .* has its text \d+ times, not once"
    ):
        mutant.apply(mutant.path.read_text())
    with pytest.raises(CatalogueError, match="there is no mutant 'unknown'"):
        find("unknown")


def test_the_document_has_each_mutant_and_the_cases_that_caught_it() -> None:
    """`make mutants` writes it when all were run."""
    recorded = document.recorded(ROOT / "docs")
    assert list(recorded) == [mutant.name for mutant in mutants()]
    for name, caught_by in recorded.items():
        assert caught_by, name
        assert all(case in CASES for case in caught_by.split(", ")), name


def test_the_document_has_the_texts_of_the_catalogue() -> None:
    """`make docs` writes them again."""
    written = (ROOT / "docs" / document.DOCUMENT).read_text()
    assert written == document.text(document.recorded(ROOT / "docs"))


def test_a_mutant_that_survived_stays_recorded_so(tmp_path: Path) -> None:
    """The document is written and read back; a mutant that was not run is not in it."""
    survivor, caught, not_run = (mutant.name for mutant in mutants()[:3])
    outcomes = {survivor: "", caught: "VU-B-0101, VU-B-0102"}
    (tmp_path / document.DOCUMENT).parent.mkdir()
    (tmp_path / document.DOCUMENT).write_text(document.text(outcomes))
    assert document.recorded(tmp_path) == outcomes
    before = (tmp_path / document.DOCUMENT).read_text()
    document.main([str(tmp_path)])
    assert (tmp_path / document.DOCUMENT).read_text() == before
    assert "1 of 2 mistakes of a back-end" in before
    assert not_run not in before
