"""``make mutants``: runs the suite on each mutant of the catalogue.

The status is 1 when a mutant survives, or when a case fails on an unmodified endpoint.
"""

from __future__ import annotations

import json
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tests.mutants import document, table
from tests.mutants.catalogue import ROLES, mutants
from tests.mutants.trial import Subject, Trial, judge

if TYPE_CHECKING:
    from collections.abc import Sequence

_WIDTH = 200


def subjects(only: str, role: str | None) -> list[Subject]:
    """The subjects: the unmodified endpoints, then the mutants, as far as a word selects them.

    Args:
        only: words: a part of the name, or the area or role.
        role: select this role only.
    """
    mutated = [Subject.of(mutant) for mutant in mutants()]
    clean = dict.fromkeys(subject._replace(mutant=None) for subject in mutated)
    words = only.replace(",", " ").split()
    return [
        subject
        for subject in (*clean, *mutated)
        if role in (None, subject.role)
        and (not words or any(_is_about(word, subject) for word in words))
    ]


def _is_about(word: str, subject: Subject) -> bool:
    area = subject.mutant.area if subject.mutant else ""
    return word in subject.name or word in (area, subject.role)


@click.command(help=__doc__)
@click.option("--only", default="", metavar="WORDS", help="Names, parts of names, or areas.")
@click.option("--role", type=click.Choice(tuple(ROLES)), help="Endpoints of this role only.")
@click.option(
    "--jobs", default=2, show_default=True, help="Number of mutants that are run in parallel."
)
@click.option("--every", is_flag=True, help="Run all cases on each, not only until one fails.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), metavar="FILE")
@click.option(
    "--document",
    "docs",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Write what was found to the list of mutants in this folder; the rest of it stays.",
)
def main(
    only: str,
    role: str | None,
    jobs: int,
    json_file: Path | None,
    docs: Path | None,
    *,
    every: bool,
) -> None:
    """The command line."""
    chosen = subjects(only, role)
    if not chosen:
        raise click.UsageError(f"no mutant has the name or area {only!r}")
    console = Console(width=None if sys.stdout.isatty() else _WIDTH, highlight=False)
    begin = time.monotonic()
    trials = _try_all(chosen, jobs, console, every=every)
    seconds = time.monotonic() - begin
    console.print(table.table(trials))
    console.print(table.summary(trials, seconds))
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(table.to_json(trials, seconds), indent=1) + "\n")
    if docs is not None:
        document.write(docs, trials)
    if not all(trial.as_it_should_be for trial in trials):
        raise click.exceptions.Exit(1)


def _try_all(chosen: Sequence[Subject], jobs: int, console: Console, *, every: bool) -> list[Trial]:
    """The results in the order of the catalogue."""
    done: dict[Subject, Trial] = {}
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[last]}"),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    # A process for each: a trial handles descriptors by number, as its peer does.
    with progress, ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        task = progress.add_task("mutants", total=len(chosen), last="")
        futures = [pool.submit(judge, subject, every=every) for subject in chosen]
        for future in as_completed(futures):
            trial = future.result()
            done[trial.subject] = trial
            last = f"{trial.subject.name}: {table.verdict(trial).plain}"
            progress.update(task, advance=1, last=last)
            if not console.is_terminal and not trial.as_it_should_be:
                console.print(last)
    return [done[subject] for subject in chosen]


if __name__ == "__main__":
    main()
