"""What `emu conform` prints, made from results."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from vhost_user.console import console_for
from vhost_user_conformance.model.case import BACK_END, FRONT_END, SANITY, Case
from vhost_user_conformance.model.result import CaseResult, Known
from vhost_user_conformance.model.verdict import Severity, Verdict
from vhost_user_conformance.report import terminal
from vhost_user_conformance.target import cases_of

if TYPE_CHECKING:
    from collections.abc import Sequence

CASES = [case for case in cases_of(BACK_END) if case.area != SANITY]
WIDTH = 80
SEEN = "flags 0xd\n... (19 lines before)\n> SET_VRING_ADDR " + "desc 0x7f0000100000, " * 12
EXPECTED = "flags 0x5 in the reply to GET_VRING_BASE " * 4


def result(verdict: Verdict, case: Case, *, severity: Severity = Severity.MUST) -> CaseResult:
    """One, of a case with this severity."""
    expected = EXPECTED if verdict is Verdict.FAIL else ""
    seen = "" if verdict is Verdict.PASS else SEEN
    return CaseResult(case._replace(severity=severity), verdict, expected, seen, 1.0)


def mixed() -> list[CaseResult]:
    """Every verdict, and every severity, in no order."""
    results = [result(verdict, case) for verdict, case in zip(Verdict, CASES, strict=False)]
    for severity, case in zip(reversed(Severity), CASES[10:], strict=False):
        results.append(result(Verdict.FAIL, case, severity=severity))
        results.append(result(Verdict.OBSERVED, CASES[CASES.index(case) + 20]))
    return results


def printed(
    results: Sequence[CaseResult], *, width: int | None = None, verbose: bool = False
) -> list[str]:
    """The report's lines; without a width it goes to a pipe."""
    file = io.StringIO()
    out = console_for(file)
    if width is not None:
        out = Console(file=file, width=width, highlight=False)
    terminal.print_report(out, BACK_END, results, verbose=verbose)
    return [line.rstrip() for line in file.getvalue().splitlines()]


def test_the_last_line_of_a_run_that_proves_nothing() -> None:
    """It names the case and what was seen."""
    (case,) = [case for case in cases_of(FRONT_END) if case.id == "VU-F-0001"]
    sane = CaseResult(case, Verdict.PASS, "", "", 1.0)
    assert len(terminal.summary(FRONT_END, [sane])) == 2
    insane = CaseResult(case, Verdict.UNSUPPORTED, "", "no guest started a ring\nmore", 1.0)
    assert terminal.summary(FRONT_END, [insane])[-1] == (
        "this run proves nothing: the front-end does not pass VU-F-0001: no guest started a ring"
    )


def test_the_last_line_of_a_run_without_a_class_of_device() -> None:
    """The case that needs no request shows that the back-end works."""
    known, unknown = (case for case in cases_of(BACK_END) if case.id in ("VU-B-0001", "VU-B-0002"))
    results = [
        CaseResult(known, Verdict.UNSUPPORTED, "", "needs to know the device", 1.0),
        CaseResult(unknown, Verdict.PASS, "", "", 1.0),
    ]
    assert terminal.summary(BACK_END, results)[-1] == (
        "this run shows nothing about the requests of the back-end: use --device"
    )


def test_known_failures_have_one_line_and_new_ones_come_first() -> None:
    """With --verbose their evidence, too; those that are mended are named with the failures."""
    known = Known(1, "bug 3")
    results = [
        result(Verdict.FAIL, CASES[0])._replace(known=known),
        result(Verdict.FAIL, CASES[1]),
        result(Verdict.PASS, CASES[2])._replace(known=known),
    ]
    new, old, mended = (case.id for case in (CASES[1], CASES[0], CASES[2]))
    lines = printed(results)
    assert [line.split()[0] for line in lines if line.startswith("VU-B-")] == [new, mended, old]
    assert f"{mended} PASS (must) is known to fail: {CASES[2].rule}" in lines
    assert f"{old} FAIL (must) known: bug 3" in lines
    assert lines[-1] == f"known failures: 1 of 2 failed, 1 new, 1 mended ({mended})"
    seen = [line for line in lines if line.startswith("    seen: ")]
    assert len(seen) == 1
    assert [line for line in printed(results, verbose=True) if line in seen] == seen * 2


def heads(lines: Sequence[str]) -> list[str]:
    """Verdict and severity of each case that has lines of its own, in their order."""
    return [" ".join(line.split()[1:3]) for line in lines if line.startswith("VU-B-")]


def test_failures_come_first_and_must_before_should() -> None:
    """Then what ended as ERROR; what was observed is only counted."""
    assert heads(printed(mixed())) == [
        *("FAIL (must)", "FAIL (must)", "FAIL (should)", "FAIL (may)"),
        "ERROR (must)",
    ]
    assert "4 observed (--verbose lists them)" in "\n".join(printed(mixed()))


def test_verbose_lists_what_was_observed() -> None:
    """After the failures."""
    shown = heads(printed(mixed(), verbose=True))
    assert shown[5:] == ["OBSERVED (must)"] * 4
    assert "--verbose" not in "\n".join(printed(mixed(), verbose=True))


@pytest.mark.parametrize("width", [60, WIDTH, 132])
def test_a_terminal_s_width_is_kept(width: int) -> None:
    """By each line, and no word is lost by that."""
    lines = printed(mixed(), width=width, verbose=True)
    assert max(map(len, lines)) <= width
    wrapped, whole = " ".join(lines).split(), " ".join(printed(mixed(), verbose=True)).split()
    assert [word for word in wrapped if word.isalnum()] == [w for w in whole if w.isalnum()]


def test_a_pipe_gets_whole_lines() -> None:
    """However long they are."""
    lines = printed(mixed())
    assert f"    expected: {EXPECTED}".rstrip() in lines
    assert f"      {SEEN.splitlines()[-1]}".rstrip() in lines


def test_each_failure_has_all_that_is_needed_to_mend_it() -> None:
    """Id, severity, rule, source, what was expected and seen, and the messages."""
    failed = result(Verdict.FAIL, CASES[0], severity=Severity.SHOULD)
    lines = terminal.evidence_text(failed).splitlines()
    assert lines[0] == f"{CASES[0].id} FAIL (should) {CASES[0].rule}"
    assert lines[1:4] == [
        f"    source: {CASES[0].spec}",
        f"    expected: {EXPECTED}",
        "    seen: flags 0xd",
    ]
    assert lines[4:] == [f"      {line}" for line in SEEN.splitlines()[1:]]


def test_the_summary_counts_cases_and_rules() -> None:
    """A case is not a rule: several cases find out whether one rule is kept."""
    cases, rules = terminal.summary(BACK_END, mixed())
    assert cases == (
        "cases: 4 failed (2 must, 1 should, 1 may), 1 passed, 1 not supported, 4 observed, "
        "1 without a verdict"
    )
    assert rules.startswith("rules: ")
    one = [result(Verdict.PASS, CASES[0])]
    assert terminal.summary(BACK_END, one)[0] == (
        "cases: 0 failed, 1 passed, 0 not supported, 0 observed, 0 without a verdict"
    )


def test_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    """https://no-color.org: no colour, also on a terminal."""
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    file = io.StringIO()
    out = Console(file=file, width=WIDTH, force_terminal=True, highlight=False)
    terminal.print_report(out, BACK_END, mixed(), verbose=True)
    assert not any(f"\x1b[{code}" in file.getvalue() for code in ("3", "9", "1;3"))


def test_the_list_has_a_line_for_each_case() -> None:
    """In a pipe, and wrapped on a terminal."""
    file = io.StringIO()
    terminal.print_cases(console_for(file), CASES)
    *lines, last = file.getvalue().splitlines()
    assert [line.split()[0] for line in lines] == [case.id for case in CASES]
    assert all(case.rule in line for case, line in zip(CASES, lines, strict=True))
    assert last.startswith(f"cases: {len(CASES)}, areas: ")
    file = io.StringIO()
    terminal.print_cases(Console(file=file, width=WIDTH), CASES)
    assert max(map(len, file.getvalue().splitlines())) <= WIDTH
