"""`emu compare`: what differs between two JSON documents."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from backends.options import FilePath
from emu.commands import validate
from emu.commands.color_option import color_option
from emu.commands.json_output import deliver, json_option, report_stream
from emu.errors import EmuError, OptionError, PreflightError
from vhost_user import input_file
from vhost_user.one_line import one_line

if TYPE_CHECKING:
    from pathlib import Path

    from emu.report.comparison import Document

#: Bytes of the largest document that is read.
MAX_BYTES = 1 << 28

HELP = """Compare two JSON documents of emu migrate, emu sweep or emu conform.

For migrations the command compares the medians of each strategy (in a sweep, of each VM). A
permutation test over the repetitions decides which differences are real; it needs four or more
migrations in each document. For conformance the command lists the verdicts that differ.

\b
Examples:
  emu migrate --strategy prewired --repeat 10 --json before.json
  emu migrate --strategy prewired --repeat 10 --threads 8 --json after.json
  emu compare before.json after.json
  emu compare before.json after.json --fail-on-regression 10

The exit status is 0 also if the documents differ, 1 if --fail-on-regression finds a regression or a
strategy with too few runs, or if a document cannot be read, and 2 if the documents cannot be
compared.
"""


@click.command(help=HELP, short_help="Compare two JSON documents.")
@click.argument("before", type=FilePath(), metavar="BEFORE")
@click.argument("after", type=FilePath(), metavar="AFTER")
@click.option("--phases", is_flag=True, help="Also compare each phase in the blackout.")
@click.option(
    "--fail-on-regression",
    type=click.FloatRange(0, 1e6),
    metavar="PERCENT",
    help="Exit with status 1 if a figure is larger by more than this and the difference is real, "
    "if more migrations failed, if a case fails that did not, or if a strategy has too few runs to "
    "tell.",
)
@json_option("the differences")
@color_option
def compare(
    *,
    before: Path,
    after: Path,
    phases: bool,
    fail_on_regression: float | None,
    json_file: Path | None,
) -> None:
    """Read, compare, and print the report."""
    from emu.report import comparison, comparison_tables
    from vhost_user.console import console_for

    validate.output_file("--json", json_file, takes_stdout=True)
    documents = [_read(path) for path in (before, after)]
    try:
        result = comparison.compare(*documents, phases=phases)
    except comparison.DocumentError as error:
        raise OptionError(f"{before} and {after} cannot be compared: {error}") from None
    comparison_tables.show(result, console_for(report_stream(json_file)))
    deliver(json_file, result.to_json())
    if fail_on_regression is None:
        return
    unjudged = result.unjudged
    for each in unjudged:
        click.echo(f"not judged: {one_line(each.text, 400)}", err=True)
    if worse := result.regressions(fail_on_regression):
        raise EmuError(f"--fail-on-regression: {'; '.join(worse)}")
    if whole := sum(each.whole for each in unjudged):
        raise EmuError(
            "--fail-on-regression: strategies that could not be judged: "
            f"{whole} of {len(result.compared)}"
        )


def _read(path: Path) -> Document:
    from emu.report.comparison import DocumentError, read

    try:
        return read(input_file.read(path, MAX_BYTES))
    except OSError as error:
        raise PreflightError(f"{path}: {error.strerror}") from None
    except DocumentError as error:
        raise OptionError(f"{path} {error}") from None
