"""What a back-end that does nothing passes: no case, unless the list has it with a reason."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from vhost_user_conformance.model.case import BACK_END, SANITY
from vhost_user_conformance.model.verdict import Verdict
from vhost_user_conformance.target import SHORTEST_PATIENCE, Target, areas_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vhost_user_conformance.model.case import Case
    from vhost_user_conformance.model.result import CaseResult

ROOT = Path(__file__).parents[2]
LIST = ROOT / "tests" / "peers" / "null_peers.toml"
PASSES = {case for entry in tomllib.loads(LIST.read_text())[BACK_END] for case in entry["cases"]}
#: The cases of each area that are run on a disk.
CASES = {
    area.name: cases
    for area in areas_of(BACK_END)
    if (cases := [case for case in area.cases if case.device in ("", "blk")])
}
#: Of the list, with those that count resources or send much left to the run of all cases.
QUICK = ("framing", "negotiation", "reply_ack", "config", "status", "errors")


def passed(cases: Iterable[Case]) -> set[str]:
    """The ids of the cases that the null back-end passes, as a disk."""
    program = f"{sys.executable} -m tests.vhost_user_conformance.null_back_end {{socket}}"
    command = f"env PYTHONPATH={ROOT} {program}"
    target = Target(BACK_END, None, command, "blk", patience=SHORTEST_PATIENCE, scratch=True)
    results: list[CaseResult] = []
    with target.opened() as runner:
        runner.probe()
        runner.run(cases, results.append)
    return {result.case.id for result in results if result.verdict is Verdict.PASS}


@pytest.mark.parametrize("area", QUICK)
def test_the_listed_cases_of_an_area_pass(area: str) -> None:
    """The reasons are in the list, which `test_null_peers` checks."""
    listed = [case for case in CASES[area] if case.id in PASSES]
    assert passed(listed) == {case.id for case in listed} != set()


def test_the_first_and_the_last_cases_do_not_pass() -> None:
    """So that the run says that it proves nothing."""
    cases = CASES[SANITY]
    assert [case.id for case in cases] == ["VU-B-0001", "VU-B-0002", "VU-B-9901", "VU-B-9902"]
    assert passed(cases) == set()


def test_a_ring_of_two_descriptors_has_to_serve() -> None:
    """VU-B-0420 and others once passed, as nothing was to be served or nothing was taken."""
    once = ("0409", "0420", "0601", "0610", "0613", "0614", "2002", "2004")
    cases = [case for cases in CASES.values() for case in cases if case.id[5:] in once]
    assert len(cases) == len(once)
    assert passed(cases) == set()


@pytest.mark.slow
@pytest.mark.parametrize("area", CASES)
def test_an_area_has_no_other_case_that_passes(area: str) -> None:
    """All cases of the area are run, and those that pass are in the list."""
    cases = CASES[area]
    assert passed(cases) == {case.id for case in cases} & PASSES
