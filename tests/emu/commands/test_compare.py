"""`emu compare`, as a user starts it."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.emu.report.comparable import conformance, migration
from tests.emu.test_cli import emu
from vhost_user_conformance.model.verdict import Verdict

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

FAST = (10.0, 11.0, 12.0, 13.0)
SLOW = (20.0, 21.0, 22.0, 23.0)


@pytest.fixture
def compared(tmp_path: Path) -> Any:
    def run(before: Any, after: Any, *arguments: str) -> subprocess.CompletedProcess[str]:
        paths = [tmp_path / "a.json", tmp_path / "b.json"]
        for path, whole in zip(paths, (before, after), strict=True):
            path.write_text(json.dumps(whole))
        return emu("compare", *map(str, paths), *arguments)

    return run


def test_a_difference_is_no_failure_and_a_regression_is(compared: Any) -> None:
    documents = migration({"split": FAST}), migration({"split": SLOW})
    done = compared(*documents, "--json")
    assert (done.returncode, json.loads(done.stdout)["compared"]) == (0, "migration")
    assert "slower" in done.stderr
    done = compared(*documents, "--fail-on-regression", "50")
    assert done.returncode == 1
    assert done.stderr == (
        "emu: --fail-on-regression: split downtime_ms +87.0% (2 devices); "
        "split stop_ms +87.0% (2 devices)\n"
    )
    assert compared(*documents, "--fail-on-regression", "90").returncode == 0
    assert compared(*reversed(documents), "--fail-on-regression", "0").returncode == 0


def test_too_few_runs_pass_no_gate(compared: Any) -> None:
    """Not even if there are enough of another strategy; each has a line."""
    times = {"prewired": FAST, "split": FAST[:1], "threads": FAST[:2]}
    documents = migration(times), migration(times)
    done = compared(*documents, "--fail-on-regression", "5")
    assert done.returncode == 1
    few = "(2 devices): too few runs to tell"
    why = "after; use --repeat 4 or more for both documents"
    assert done.stderr.splitlines() == [
        f"not judged: split {few}: 1 completed migration before, 1 {why}",
        f"not judged: threads {few}: 2 completed migrations before, 2 {why}",
        "emu: --fail-on-regression: strategies that could not be judged: 2 of 3",
    ]


def test_a_regression_is_the_reason_also_if_others_are_not_judged(compared: Any) -> None:
    done = compared(
        migration({"prewired": FAST, "split": FAST[:1]}),
        migration({"prewired": SLOW, "split": FAST[:1]}),
        "--fail-on-regression",
        "5",
    )
    assert done.returncode == 1
    first, last = done.stderr.splitlines()
    assert first.startswith("not judged: split (2 devices)")
    assert last.startswith("emu: --fail-on-regression: prewired downtime_ms +87.0%")


def test_figures_that_are_not_judged_leave_the_others(compared: Any) -> None:
    documents = migration({"split": FAST}), migration({"split": FAST})
    for run in documents[1]["runs"][1:]:
        run["stop_ms"] = None
    done = compared(*documents, "--fail-on-regression", "5")
    assert done.returncode == 0
    assert done.stderr.startswith("not judged: split (2 devices): stop_ms: too few runs to tell")


def test_a_new_failure_of_a_case_is_a_regression(compared: Any) -> None:
    done = compared(
        conformance(Verdict.PASS), conformance(Verdict.FAIL), "--fail-on-regression", "0"
    )
    assert (done.returncode, "new failures: 1" in done.stdout) == (1, True)
    assert done.stderr.endswith("PASS, now FAIL\n")


def test_documents_of_different_kinds_are_refused(compared: Any, tmp_path: Path) -> None:
    done = compared(migration({"split": FAST}), conformance(Verdict.PASS))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"emu: {tmp_path}/a.json and {tmp_path}/b.json cannot be compared: one is a document of "
        "emu migrate, the other one of emu conform\n"
    )


@pytest.mark.parametrize(
    ("text", "status", "reason"),
    [(None, 1, ": No such file or directory"), ("x", 2, " is no document of emu: ")],
)
def test_what_is_no_document_is_one_line(
    text: str | None, status: int, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.json"
    if text is not None:
        path.write_text(text)
    done = emu("compare", str(path), str(path))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (status, "", 1)
    assert done.stderr.startswith(f"emu: {path}{reason}")
