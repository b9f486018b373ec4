"""The file of known failures."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from vhost_user_conformance.errors import OptionError
from vhost_user_conformance.model import baseline
from vhost_user_conformance.model.case import BACK_END, FRONT_END
from vhost_user_conformance.model.result import CaseResult, Known, document
from vhost_user_conformance.model.verdict import Verdict
from vhost_user_conformance.target import cases_of

if TYPE_CHECKING:
    from pathlib import Path

CASES = cases_of(BACK_END)
A, B, C, D = (case.id for case in CASES[10:14])


def read(path: Path, text: str) -> dict[str, Known]:
    file = path / "known.txt"
    file.write_text(text)
    return baseline.read("--known", file, CASES)


def results(**verdicts: Verdict) -> list[CaseResult]:
    by_letter = dict(zip("ABCD", CASES[10:14], strict=True))
    return [
        CaseResult(by_letter[letter], verdict, "", "", 1.0) for letter, verdict in verdicts.items()
    ]


def test_lines_have_an_id_and_perhaps_a_reason(tmp_path: Path) -> None:
    text = f"# of 1.4\n\n  {A}\n{B}\tbug 3\n{C}? # under \x1b[2J load\n"
    assert read(tmp_path, text) == {
        A: Known(3),
        B: Known(4, "bug 3"),
        C: Known(5, "under \\x1b[2J load", sometimes=True),
    }
    assert read(tmp_path, "") == {}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f"{A}\nVU-B-9998 gone\n", "line 2: VU-B-9998 is no id of a case (VU-B-...)"),
        (f"# x\n{cases_of(FRONT_END)[0].id}\n", "line 2: VU-F-0001 is no id of a case (VU-B-...)"),
        ("\x1b[2J\n", "line 1: \\x1b[2J is no id of a case (VU-B-...)"),
        (f"{A}\n\n{A}? twice\n", f"line 3: {A} is also on line 1"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(OptionError) as caught:
        read(tmp_path, text)
    assert str(caught.value) == f"--known {tmp_path}/known.txt, {reason}"


def test_a_file_that_is_no_text_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        baseline.read("--known", tmp_path / "none", CASES)
    with pytest.raises(OSError, match="is not a regular file"):
        baseline.read("--known", tmp_path, CASES)
    (tmp_path / "large").write_bytes(bytes(baseline.MAX_BYTES + 1))
    with pytest.raises(OSError, match="has more than"):
        baseline.read("--known", tmp_path / "large", CASES)


@pytest.mark.parametrize(
    ("verdict", "failure", "mended"),
    [
        (Verdict.FAIL, True, False),
        (Verdict.ERROR, True, False),
        (Verdict.PASS, False, True),
        (Verdict.OBSERVED, False, True),
        (Verdict.UNSUPPORTED, False, False),
    ],
)
def test_what_a_verdict_means_for_a_known_failure(
    verdict: Verdict, failure: bool, mended: bool
) -> None:
    always, sometimes, unknown = (
        baseline.marked(results(A=verdict)[0], known)
        for known in ({A: Known(1)}, {A: Known(1, sometimes=True)}, {B: Known(1)})
    )
    assert (always.known_failure, always.mended) == (failure, mended)
    assert (sometimes.known_failure, sometimes.mended) == (failure, False)
    assert (unknown.known_failure, unknown.mended) == (False, False)


def test_a_baseline_is_brought_up_to_date(tmp_path: Path) -> None:
    """What failed is in it, what passed is not, and what was not run stays; so do reasons."""
    known = read(tmp_path, f"{A} mended\n{B} still\n{C}? flaky\n{D} elsewhere\n")
    judged = results(A=Verdict.PASS, B=Verdict.FAIL, C=Verdict.PASS)
    text = baseline.updated(judged, known)
    assert text.splitlines()[1:] == [f"{B} still", f"{C}? flaky", f"{D} elsewhere"]
    assert read(tmp_path, text) == {
        B: Known(2, "still"),
        C: Known(3, "flaky", sometimes=True),
        D: Known(4, "elsewhere"),
    }


def test_a_first_baseline_has_the_failures_with_their_rules(tmp_path: Path) -> None:
    judged = results(A=Verdict.FAIL, B=Verdict.ERROR, C=Verdict.PASS)
    text = baseline.updated(judged, {})
    assert text.splitlines()[1:] == [f"{A} {CASES[10].rule}"]
    known = read(tmp_path, text)
    whole = document(
        BACK_END, {}, {}, [baseline.marked(each, known) for each in judged], known=True
    )
    assert whole["known"] == {"failed": [A], "new": [], "mended": []}
    assert [case.get("known") for case in whole["cases"]] == [CASES[10].rule, None, None]
    assert "known" not in document(BACK_END, {}, {}, judged)
