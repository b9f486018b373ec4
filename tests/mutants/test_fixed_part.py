"""A part of `make mutants` that is fast enough for each test run."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.mutants.catalogue import ROLES, ROOT, UNMUTATED, find
from tests.mutants.trial import Finding, Subject, attempt
from tests.timeouts import PROGRAM_TIMEOUT

pytestmark = pytest.mark.slow

#: One or two of the large areas; each is caught within a second or two.
FIXED = (
    "reply-without-flag",
    "payload-not-waited-for",
    "version-1-not-offered",
    "region-end-off-by-one",
    "table-descriptors-leak",
    "enable-starts",
    "used-event-off-by-one",
    "base-off-by-one",
    "success-is-one",
    "used-elements-not-logged",
    "stop-stops-all",
    "inflight-not-cleared",
    "region-too-long",
    "base-forgotten",
    "log-too-short",
    "head-beyond-the-table",
)


@pytest.mark.parametrize("name", FIXED)
def test_a_mutant_is_caught(name: str) -> None:
    """By one of the cases in the catalogue entry."""
    mutant = find(name)
    trial = attempt(Subject.of(mutant), thorough=False)
    assert trial.findings
    assert not trial.by_surprise, trial.findings


@pytest.mark.parametrize("role", ROLES)
def test_what_catches_mutants_passes_an_endpoint_as_it_is(role: str) -> None:
    """The same cases, through the same launcher, on the same program."""
    of_role = [mutant for mutant in map(find, FIXED) if mutant.role == role]
    caught_by = frozenset(case for mutant in of_role for case in mutant.caught_by)
    trial = attempt(Subject(role, "blk"), only=caught_by)
    assert trial.findings == ()
    assert trial.cases == len(caught_by) > 0


def test_a_program_that_does_not_start_is_found() -> None:
    """It is neither a survivor nor caught."""
    broken = find("success-is-one")._replace(name="unknown")
    trial = attempt(Subject("back-end", "blk", broken), thorough=False)
    (finding,) = trial.findings
    assert isinstance(finding, Finding)
    assert "there is no mutant 'unknown'" in finding.seen
    assert trial.by_surprise


def launch(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The launcher, as a shell starts it."""
    argv = [sys.executable, "-m", "tests.mutants.launch", *arguments]
    return subprocess.run(
        argv, capture_output=True, text=True, timeout=PROGRAM_TIMEOUT, check=False, cwd=ROOT
    )


def test_the_launcher_runs_the_program_with_its_arguments() -> None:
    """Unmodified, and with one text replaced; no file changes."""
    before = find("success-is-one").path.read_bytes()
    assert '"type": "block"' in launch(UNMUTATED, "backends.blk", "--print-capabilities").stdout
    mutated = launch("success-is-one", "backends.blk", "--print-capabilities")
    assert '"type": "block"' in mutated.stdout
    assert find("success-is-one").path.read_bytes() == before
    assert "usage:" in launch("success-is-one").stderr
