"""What a user reads while the cases run, and afterwards.

On a terminal lines are wrapped at its width. Elsewhere, in a pipe or a file, no line is wrapped or
cut.
"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from rich import box
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from vhost_user.console import UNLIMITED
from vhost_user.live_region import LiveRegion
from vhost_user_conformance.model.case import SANITY
from vhost_user_conformance.model.result import not_sane
from vhost_user_conformance.model.verdict import Severity, Verdict
from vhost_user_conformance.report.rule_outcome import rule_outcome

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Self

    from rich.console import Console

    from vhost_user_conformance.model.case import Case
    from vhost_user_conformance.model.result import CaseResult

STYLES = {
    Verdict.PASS: "green",
    Verdict.FAIL: "bold red",
    Verdict.UNSUPPORTED: "dim",
    Verdict.OBSERVED: "cyan",
    Verdict.ERROR: "yellow",
}
#: The order in which a user mends what is wrong.
_BY_SEVERITY = tuple(Severity)
#: Columns of the bar that shows how many cases have been run.
_BAR_WIDTH = 40
#: Names of rules in one line.
_RULES_SHOWN = 12


class CaseProgress:
    """The line that changes: how many cases have been run, and the verdict of the last one.

    Args:
        target: only a terminal shows it.
        title: begins the line.
        total: cases.
    """

    def __init__(self, target: Console, title: str, total: int) -> None:
        changes = target.is_terminal and not target.is_dumb_terminal
        self._live = LiveRegion(target) if changes else None
        self._title = title
        self._total = total

    def __enter__(self) -> Self:
        self.show(0, "")
        return self

    def __exit__(self, *_exception: object) -> None:
        if self._live is not None:
            self._live.close()

    def show(self, number: int, last: str) -> None:
        """So many have been run, and what the last one was."""
        if self._live is not None:
            line = Table.grid(padding=(0, 1))
            bar = ProgressBar(total=self._total, completed=number, width=_BAR_WIDTH)
            line.add_row(self._title, bar, f"{number}/{self._total}", last)
            self._live.show(line)


def print_cases(out: Console, cases: Sequence[Case]) -> None:
    """All cases, a line each, and their number."""
    width = max((len(case.area) for case in cases), default=0)
    for case in cases:
        needs = [*case.needs, *([case.device] if case.device else [])]
        head = f"{case.id}  {case.area:<{width}}  {case.severity:<6}  "
        tail = f" [{' '.join(needs)}]" if needs else ""
        _print(out, _lines(head, case.rule + tail, _width(out)))
    areas = len({case.area for case in cases})
    _print(out, [Text(f"cases: {len(cases)}, areas: {areas}")])


def print_report(out: Console, role: str, results: Sequence[CaseResult], *, verbose: bool) -> None:
    """What to mend first, then the known failures, a table by area, and a summary at the end.

    Args:
        out: where to.
        role: ``back-end`` or ``front-end``.
        results: one for each case that was run.
        verbose: list what was OBSERVED, and not only how often, and the evidence of known failures.
    """
    print_failures(out, results)
    for result in results:
        if result.known is not None and result.known_failure:
            text = f"known: {result.known.reason or result.case.rule}"
            lines = evidence(result, _width(out)) if verbose else []
            _print(out, [*_headline(result, text, _width(out)), *lines[1:]])
    if verbose:
        for result in results:
            if result.verdict is Verdict.OBSERVED:
                _print(out, _headline(result, f"{result.case.rule}: {result.seen}", _width(out)))
    out.print(by_area(results))
    for line in summary(role, results, verbose=verbose):
        _print(out, _lines("", line, _width(out)))


def print_failures(out: Console, results: Sequence[CaseResult]) -> None:
    """Each case that failed, MUST before SHOULD before MAY, and then each that ended as ERROR.

    Known failures are left out. Those that are mended follow at the end.
    """
    for result in failures(results):
        if not result.known_failure:
            _print(out, evidence(result, _width(out)))
    for result in results:
        if result.mended:
            _print(out, _headline(result, f"is known to fail: {result.case.rule}", _width(out)))


def print_not_run(out: Console, count: int) -> None:
    """The number of cases that a run has left out, as it was ended."""
    text = "1 case was" if count == 1 else f"{count} cases were"
    _print(out, _lines("", f"{text} not run", _width(out)))


def failures(results: Iterable[CaseResult]) -> list[CaseResult]:
    """The results with FAIL or ERROR, in the order in which they are printed."""
    order = (Verdict.FAIL, Verdict.ERROR)
    return sorted(
        (result for result in results if result.verdict in order),
        key=lambda one: (order.index(one.verdict), _BY_SEVERITY.index(one.case.severity)),
    )


def by_area(results: Sequence[CaseResult]) -> Table:
    """How often each verdict came, for each area."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("area", no_wrap=True)
    for verdict in Verdict:
        table.add_column(str(verdict), justify="right", style=STYLES[verdict])
    areas = list(dict.fromkeys(result.case.area for result in results))
    for area in [*areas, ""]:
        verdicts = [one.verdict for one in results if not area or one.case.area == area]
        counts = [verdicts.count(verdict) for verdict in Verdict]
        if not area:
            table.add_section()
        table.add_row(area or "all", *[str(count) if count else "-" for count in counts])
    return table


def summary(role: str, results: Sequence[CaseResult], *, verbose: bool = True) -> list[str]:
    """The last lines: how the cases ended, and which rules of the protocol they decide."""
    verdicts = [result.verdict for result in results]
    failed = [result.case.severity for result in results if result.verdict is Verdict.FAIL]
    kinds = ", ".join(f"{failed.count(each)} {each}" for each in Severity if each in failed)
    observed = verdicts.count(Verdict.OBSERVED)
    parts = [
        f"{len(failed)} failed" + f" ({kinds})" * bool(failed),
        f"{verdicts.count(Verdict.PASS)} passed",
        f"{verdicts.count(Verdict.UNSUPPORTED)} not supported",
        f"{observed} observed" + " (--verbose lists them)" * (observed > 0 and not verbose),
        f"{verdicts.count(Verdict.ERROR)} without a verdict",
    ]
    rules = rule_outcome(role, results)
    kept = f"{len(rules.kept)} kept, {len(rules.undecided)} undecided"
    broken = f"{len(rules.broken)} broken"
    if rules.broken:
        more = len(rules.broken) - _RULES_SHOWN
        names = " ".join(rules.broken[:_RULES_SHOWN]) + f" and {more} more" * (more > 0)
        broken += f" ({names})"
    lines = [f"cases: {', '.join(parts)}", f"rules: {broken}, {kept}"]
    if any(result.known is not None for result in results):
        lines.append(_baseline_line(results))
    if insane := not_sane(results):
        seen = next((each.seen.splitlines()[0] for each in insane if each.seen), "")
        names = " and ".join(each.case.id for each in insane)
        lines.append(f"this run proves nothing: the {role} does not pass {names}: {seen}")
    elif any(result.case.area == SANITY and result.case.works for result in left_out(results)):
        lines.append(f"this run shows nothing about the requests of the {role}: use --device")
    return lines


def _baseline_line(results: Sequence[CaseResult]) -> str:
    failed = [result for result in results if result.verdict is Verdict.FAIL]
    known = sum(result.known is not None for result in failed)
    mended = [result.case.id for result in results if result.mended]
    text = f"known failures: {known} of {len(failed)} failed, {len(failed) - known} new"
    return f"{text}, {len(mended)} mended" + f" ({' '.join(mended)})" * bool(mended)


def left_out(results: Iterable[CaseResult]) -> list[CaseResult]:
    """The results with UNSUPPORTED."""
    return [result for result in results if result.verdict is Verdict.UNSUPPORTED]


def evidence(result: CaseResult, width: int | None = None) -> list[Text]:
    """Why a case failed: the rule, its source, what was expected and seen, and the messages.

    Args:
        result: of the case.
        width: columns at which lines are wrapped, or None.
    """
    lines = _headline(result, result.case.rule, width)
    lines += _lines("    source: ", result.case.spec, width)
    if result.expected:
        lines += _lines("    expected: ", result.expected, width)
    first, *rest = result.seen.splitlines() or [""]
    lines += _lines("    seen: ", first, width)
    for line in rest:
        lines += _lines("      ", line, width, style="dim", deeper=4)
    return lines


def evidence_text(result: CaseResult) -> str:
    """The same as plain text, not wrapped."""
    return "\n".join(line.plain for line in evidence(result))


def _headline(result: CaseResult, text: str, width: int | None) -> list[Text]:
    head = f"{result.case.id} {result.verdict} ({result.case.severity}) "
    lines = _lines(head, text, width)
    lines[0].stylize(STYLES[result.verdict], 0, len(head))
    return lines


def _lines(
    head: str, text: str, width: int | None, *, style: str = "", deeper: int = 0
) -> list[Text]:
    """A head and a text behind it; further lines are indented, by ``deeper`` columns more."""
    indent = min(len(head), 14) + deeper
    whole = [head + text]
    if width is not None:
        whole = textwrap.wrap(
            head + text,
            max(width - 1, indent + 20),
            subsequent_indent=" " * indent,
            drop_whitespace=True,
            replace_whitespace=False,
            break_long_words=False,
            break_on_hyphens=False,
        )
    return [Text(line, style) for line in whole]


def _width(out: Console) -> int | None:
    return None if out.width == UNLIMITED else out.width


def _print(out: Console, lines: Iterable[Text]) -> None:
    for line in lines:
        out.print(line, soft_wrap=True)
