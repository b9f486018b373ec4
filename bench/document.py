"""Writes the results of `make bench` into ``docs/explanation``.

``results.md`` is written as a whole: the run, the aims, and all tables. Some tables are also in
``performance.md``, between lines that name them.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from bench import performance_tables
from bench.aims import AIMS, Outcome
from bench.figures import markdown
from bench.session import Session

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bench.recorder import NotMeasured

RESULTS = "results.md"
USAGE = "usage: python -m bench.document DIRECTORY RESULT.json"
_INTRODUCTION = """\
# Results

<!-- Written by `python -m bench.document`: changes by hand are lost. -->

What the benchmarks have measured in one run, and the aims for speed beside it."""


def page(session: Session) -> str:
    """The whole of ``results.md``."""
    return "\n".join([_INTRODUCTION, *_run(session), *_aims(session), *_rest(session)]) + "\n"


def _run(session: Session) -> Iterator[str]:
    yield ""
    yield '<!-- run skip="it takes minutes, and the figures are of another run" -->'
    yield ""
    yield f"    {session.command}"
    yield ""
    minutes, seconds = divmod(round(session.seconds), 60)
    begin, end = session.load_averages
    yield f"- Date: {', '.join(filter(None, [session.date, session.revision]))}"
    yield f"- Host: {session.host}"
    yield f"- Load average: {begin:.1f} at the beginning, {end:.1f} at the end"
    yield f"- Duration: {minutes} min {seconds} s"
    if session.busy:
        yield ""
        yield (
            "**Other programs ran meanwhile:** times are longer than on an idle host, and ratios "
            "vary more."
        )
    if not session.is_whole:
        yield ""
        yield "**This run had a part of the benchmarks only:** `make bench` runs all."


def _aims(session: Session) -> Iterator[str]:
    outcomes = [Outcome(aim, session) for aim in AIMS]
    yield from ("", "## Aims", "")
    yield (
        "Where an aim has several points, each of them has to reach it, and the range is from the "
        "best one to the worst one."
    )
    yield ""
    yield "| aim | limit | measured | |"
    yield "|---|---|---|---|"
    for each in outcomes:
        yield f"| {each.aim.title} | {each.aim.goal} | {each.measured} | {each.verdict} |"
    yield from _missed([each for each in outcomes if each.missed])
    yield from _unknown([each for each in outcomes if each.why_not_measured])


def _missed(outcomes: list[Outcome]) -> Iterator[str]:
    if not outcomes:
        return
    yield from ("", "### Missed", "")
    for each in outcomes:
        where = ", ".join(
            f"{point.name} ({each.aim.show(point.value)})" for point in each.missed if point.name
        )
        yield f"- **{each.aim.title}**{f', at {where}' if where else ''}:"
        yield f"  {'. '.join(each.reasons)}."


def _unknown(outcomes: list[Outcome]) -> Iterator[str]:
    if not outcomes:
        return
    yield from ("", "### Not measured", "")
    for each in outcomes:
        yield f"- **{each.aim.title}**: {'. '.join(each.why_not_measured)}."


def _rest(session: Session) -> Iterator[str]:
    yield from ("", "## All benchmarks", "")
    yield (
        "The tables of the summary at the end of a run: medians of all rounds. "
        "[Benchmarks](../../bench/README.md) describes what a round is, and the floor."
    )
    for group, members in session.groups.items():
        yield from ("", f"### {group}", "", *markdown([each.cells for each in members]))
    if session.not_measured:
        yield from ("", "## Benchmarks without a result", "")
        yield from _without_result(session.not_measured)


def _without_result(benchmarks: Sequence[NotMeasured]) -> Iterator[str]:
    """A line for each function and reason; the cases of one function often have the same reason."""
    alike: dict[tuple[str, str, str], list[str]] = {}
    for each in benchmarks:
        function = each.fullname.partition("[")[0]
        alike.setdefault((function, each.outcome, each.reason), []).append(each.fullname)
    for (function, outcome, reason), names in alike.items():
        name = f"`{names[0]}`" if len(names) == 1 else f"`{function}`, {len(names)} cases,"
        yield f"- {name} {outcome}{f': {reason}' if reason else ''}"


def write(directory: Path, session: Session) -> Iterator[str]:
    """Write both documents; lines about what was done.

    Raises:
        ValueError: ``performance.md`` has no place for a table.
    """
    path = directory / performance_tables.DOCUMENT
    text, kept = performance_tables.document(path.read_text(encoding="utf-8"), session)
    path.write_text(text, encoding="utf-8")
    yield str(path)
    yield from (f"  not measured, and left as it was: {name}" for name in kept)
    path = directory / RESULTS
    path.write_text(page(session), encoding="utf-8")
    yield str(path)


def main(arguments: list[str]) -> None:
    """The command line."""
    if len(arguments) != 2:
        sys.exit(USAGE)
    directory, file = map(Path, arguments)
    try:
        session = Session.read(file)
        for line in write(directory, session):
            print(line)
    except (OSError, ValueError) as error:
        sys.exit(f"bench.document: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
