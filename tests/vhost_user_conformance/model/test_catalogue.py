"""The cases as a catalogue: ids and areas."""

from __future__ import annotations

import ast
import re
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from pkgutil import walk_packages
from typing import TYPE_CHECKING

import pytest

from vhost_user_conformance.back_end import cases as back_end
from vhost_user_conformance.front_end import cases as front_end
from vhost_user_conformance.model.case import BACK_END, FRONT_END, SANITY, Area
from vhost_user_conformance.model.catalogue import CatalogueError, cases_in, collect_areas
from vhost_user_conformance.target import ROLES, areas_of, cases_of

if TYPE_CHECKING:
    from types import ModuleType

AREAS = {role: areas_of(role) for role in ROLES}
CASES = {role: cases_of(role) for role in ROLES}
FORMS = {BACK_END: r"VU-B-\d{4}", FRONT_END: r"VU-F-\d{4}"}
LEAST = {BACK_END: 170, FRONT_END: 80}


@pytest.fixture(params=AREAS)
def role(request: pytest.FixtureRequest) -> str:
    """Each role."""
    return str(request.param)


def test_ids_are_unique_and_of_one_form(role: str) -> None:
    """Users refer to ids."""
    ids = [case.id for case in CASES[role]]
    assert len(ids) == len(set(ids)) >= LEAST[role]
    assert all(re.fullmatch(FORMS[role], one) for one in ids)
    assert all(case.role == role for case in CASES[role])


def test_each_case_has_its_rule_and_its_source(role: str) -> None:
    """In one line each."""
    for case in CASES[role]:
        assert case.rule
        assert "\n" not in case.rule
        assert case.spec, case.id


def _blocks(role: str) -> dict[str, set[str]]:
    """The first digits of each area's cases."""
    return {area.name: {case.id[5:7] for case in area.cases} for area in AREAS[role]}


def test_the_numbers_of_an_area_stand_together(role: str) -> None:
    """The first digits tell the area; a run begins and ends with cases of the area sanity."""
    blocks = _blocks(role)
    if ends := blocks.pop(SANITY, None):
        assert ends == {"00", "99"}
    owners = Counter(digits for block in blocks.values() for digits in block)
    assert [digits for digits, count in owners.items() if count > 1] == [], blocks
    # A disk's and a NIC's first hundred are used up.
    assert {name for name, block in blocks.items() if len(block) > 1} <= {"data_blk", "data_net"}


def test_areas_have_the_same_digits_for_both_roles() -> None:
    """A reader of one half of the suite finds the areas of the other."""
    back, front = _blocks(BACK_END), _blocks(FRONT_END)
    both = back.keys() & front.keys()
    assert len(both) > 10
    assert {name: back[name] for name in both} == {name: front[name] for name in both}


def _modules(package: ModuleType) -> list[str]:
    """All modules of a package of cases that are not packages themselves."""
    found = walk_packages(package.__path__, f"{package.__name__}.")
    return [each.name for each in found if not each.ispkg]


@pytest.mark.parametrize("module", [*_modules(back_end), *_modules(front_end)])
def test_each_module_has_cases_and_lends_nothing(module: str) -> None:
    """No file is forgotten, and what two files of cases need is in neither."""
    bodies = [case.run for role in CASES for case in CASES[role]]
    functions = [body.args[0] if isinstance(body, partial) else body for body in bodies]
    assert any(function.__module__ == module for function in functions)
    tree = ast.parse(Path(str(sys.modules[module].__file__)).read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    borrowed = [name for node in imports if ".cases" in str(node.module) for name in node.names]
    assert [name.name for name in borrowed] in ([], ["area"])


def test_an_area_that_is_not_declared_or_not_there_is_an_error() -> None:
    """It would not run, or run at no known place."""
    path, order = list(front_end.__path__), [area.name for area in front_end.AREAS]
    for wrong, name in ((order[1:], order[0]), ([*order, "nothing"], "nothing")):
        with pytest.raises(CatalogueError, match=f"differ in {name}$"):
            collect_areas(front_end.__name__, path, wrong)


def test_an_id_that_is_given_twice_is_an_error() -> None:
    """It would be ambiguous."""
    area = Area("a", BACK_END, "s")
    area.case(1, "one")(lambda _be: None)
    area.case(1, "two")(lambda _be: None)
    with pytest.raises(CatalogueError, match="VU-B-0001 is the id of two cases"):
        cases_in([area])
