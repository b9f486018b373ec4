"""The report of `emu compare`, in 80 columns."""

from __future__ import annotations

import re
import statistics
from typing import TYPE_CHECKING

from rich.text import Text

from emu.report.cells import milliseconds, new_table
from emu.report.comparison import CONFORMANCE, SWEEP
from emu.report.permutation import ALPHA, FASTER, NO_DIFFERENCE, SLOWER, TOO_FEW
from vhost_user.one_line import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rich.console import Console
    from rich.table import Table

    from emu.report.comparison import Change, Comparison, Result

_STYLES = {SLOWER: "red", FASTER: "green", TOO_FEW: "dim", NO_DIFFERENCE: "dim"}
#: Characters of a setting's value, and of a name.
_VALUE, _NAME = 60, 26
#: The order in which changes of verdicts matter.
_TITLES: tuple[tuple[str, Callable[[Change], bool]], ...] = (
    ("new failures", lambda case: case.after == "FAIL"),
    ("mended", lambda case: case.before == "FAIL" and case.after is not None),
    ("only in the first document", lambda case: case.after is None),
    ("only in the second document", lambda case: case.before is None),
    ("other changes", lambda _: True),
)


def show(result: Result, console: Console) -> None:
    """Print what differs.

    Args:
        result: the comparison.
        console: of the output; a table is cut nowhere.
    """
    plain = not console.is_terminal
    lines = list(_settings(result.settings))
    if result.kind == CONFORMANCE:
        lines += _cases(result)
    for line in lines:
        console.print(line, soft_wrap=plain)
    if result.kind != CONFORMANCE:
        console.print(_table(result, plain=plain))
        for text in _notes(result):
            console.print(Text(text), soft_wrap=plain)


def _settings(changes: Sequence[Change]) -> Iterator[Text]:
    for change in changes:
        before, after = (one_line(_said(value), _VALUE) for value in (change.before, change.after))
        yield Text(f"differs: {one_line(change.name, _NAME)}: {before} -> {after}", "yellow")


def _said(value: object) -> str:
    return "-" if value is None else str(value)


def _cases(result: Result) -> Iterator[Text]:
    left = list(result.cases)
    for title, matches in _TITLES:
        found = [case for case in left if matches(case)]
        left = [case for case in left if case not in found]
        if found:
            yield Text(f"{title}: {len(found)}", "bold")
        for case in found:
            verdicts = f"{_said(case.before)} -> {_said(case.after)}"
            yield Text(f"  {one_line(f'{case.name} {verdicts}: {case.text}', 400)}")
    before, after = (
        ", ".join(f"{count} {verdict}" for verdict, count in verdicts.items() if count)
        for verdicts in result.verdicts
    )
    yield Text(one_line(f"before: {before}", 400))
    yield Text(one_line(f"after: {after}", 400))


def _table(result: Result, *, plain: bool) -> Table:
    table = new_table("medians, ms", plain=plain)
    sweep = result.kind == SWEEP
    for name in (*(("devices",) if sweep else ()), "strategy", "figure", "before", "after"):
        table.add_column(name, justify="left" if name in ("strategy", "figure") else "right")
    table.add_column("change", justify="right")
    table.add_column("p", justify="right")
    table.add_column("")
    last = None
    for row in result.figures:
        if last not in (None, (row.devices, row.rings, row.strategy)):
            table.add_section()
        last = (row.devices, row.rings, row.strategy)
        table.add_row(*([str(row.devices)] if sweep else []), *_cells(row))
    return table


def _cells(row: Comparison) -> tuple[str | Text, ...]:
    before, after = (
        milliseconds(statistics.median(values) if values else None)
        for values in (row.before, row.after)
    )
    change = "-" if row.change_percent is None else f"{row.change_percent:+.1f}%"
    verdict = row.verdict
    # A difference without a verdict needs no words.
    shown = {NO_DIFFERENCE: "", TOO_FEW: "?"}.get(verdict, verdict)
    return (
        one_line(row.strategy, _NAME),
        one_line(re.sub("[._]", " ", row.figure.removesuffix("_ms")), 2 * _NAME),
        before,
        after,
        change,
        "-" if row.p is None else f"{row.p:.3f}",
        Text(shown, _STYLES[verdict]),
    )


def _notes(result: Result) -> Iterator[str]:
    tested = sum(row.p is not None for row in result.figures)
    if tested:
        yield (
            f"slower, faster: p < {ALPHA:g} in a permutation test; of {tested} figures without any "
            f"difference about {tested * ALPHA:.1f} would seem to differ"
        )
    if any(row.p is None for row in result.figures):
        yield "?: too few runs to tell: use --repeat 4 or more for both documents"
    for name in result.missing:
        yield f"only in one document: {one_line(name, 2 * _NAME)}"
    (before, _), (after, runs) = result.failures
    if before or after:
        yield f"failed migrations: {before} before, {after} of {runs} after"
