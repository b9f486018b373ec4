"""`make bench-compare`: the benchmarks of two revisions in alternation."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import NoReturn

import click

from backends import console_script
from backends.options import FilePath
from bench.alternation import NEW, OLD, Alternation
from bench.checkout import clone, existing, resolve
from bench.differences import Result
from bench.ended_by import ended_by
from emu.cli import exit_status
from emu.commands import validate
from emu.commands.json_output import deliver, json_option, report_stream
from emu.errors import EmuError, OptionError
from emu.orchestrator.signals import SignalWatcher
from vhost_user.temporary_directory import TemporaryDirectory

NAME = "bench-compare"
ROOT = Path(__file__).resolve().parents[1]
MAX_ROUNDS = 1000
#: Variables that the programs of both sides must not have: `make` passes those of its own command
#: line on, and with PYTHONPATH the old side could import the new side's modules.
_NOT_INHERITED = (
    *("MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "MAKELEVEL"),
    *("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE"),
    *("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"),
)

HELP = """Run the benchmarks of REV and of this work tree in alternation, and compare them.

REV is cloned to a temporary directory and installed there by its own Makefile. Each round runs each
benchmark file on both sides, in turn; the side that begins changes. A permutation test over the
medians of the rounds decides which differences are real; it needs four rounds or more.

\b
Examples:
  python -m bench.compare HEAD~1 --only 'protocol and encode'
  python -m bench.compare --old-dir ../before --json compare.json

The exit status is 0 whatever the differences are, and also if some runs failed, which the report
names; 1 if nothing could be compared; 2 for a usage error.
"""


@click.command(help=HELP)
@click.argument("rev", required=False, default="")
@click.option(
    "--rounds", type=click.IntRange(1, MAX_ROUNDS), default=5, show_default=True, metavar="N"
)
@click.option("-k", "--only", default="", metavar="EXPRESSION", help="Select as pytest's -k does.")
@click.option(
    "--old-dir",
    type=FilePath(file_okay=False, exists=True),
    help="Take this work tree with its .venv, as it is, instead of a clone of REV.",
)
@click.option(
    "--new-dir",
    type=FilePath(file_okay=False, exists=True),
    help="Take this work tree with its .venv for the new side, not that of this program.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    default=900.0,
    show_default=True,
    metavar="SECONDS",
    help="Limit of one run of a file; it has failed then.",
)
@json_option("the comparison")
def compare(
    *,
    rev: str,
    rounds: int,
    only: str,
    old_dir: Path | None,
    new_dir: Path | None,
    timeout: float,
    json_file: Path | None,
) -> None:
    """The command line."""
    if bool(rev) == (old_dir is not None):
        raise OptionError("give either REV or --old-dir")
    validate.output_file("--json", json_file, takes_stdout=True)
    new = existing(new_dir) if new_dir else existing(ROOT, Path(sys.executable))
    commit = resolve(new.directory, rev) if rev else ""
    say = partial(click.echo, err=True)
    with TemporaryDirectory("bench-compare-") as folder, SignalWatcher() as watcher:
        if old_dir is None:
            say(f"installing {rev}")
            old = clone(new.directory, commit, folder / "old", watcher)
        else:
            old = existing(old_dir)
        sides = {OLD: old, NEW: new}
        rounds_of = Alternation(
            sides, folder, select=only, timeout=timeout, watcher=watcher, report=say
        )
        files = sorted(old.files & new.files)
        ended = ended_by(partial(rounds_of.run, files, rounds))
    result = Result(sides, rounds_of, rounds, interrupted=ended is not None)
    for line in result.lines():
        click.echo(line, file=report_stream(json_file))
    deliver(json_file, result.to_json())
    if ended is not None:
        raise ended
    if not result.differences:
        raise EmuError("no benchmark was measured on both sides")


def main() -> NoReturn:
    """Run the command and exit: each error is one line on stderr."""
    console_script.run(NAME, _run)


def _run() -> int:
    for name in _NOT_INHERITED:
        os.environ.pop(name, None)
    os.environ["COLUMNS"] = "200"  # pytest cuts the reasons of failures at this
    return exit_status(NAME, partial(compare.main, prog_name=NAME, standalone_mode=False))


if __name__ == "__main__":
    main()
