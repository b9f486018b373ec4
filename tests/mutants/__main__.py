"""``make mutants``: every mistake of the catalogue, and whether the suite finds it.

The status is 1 when a mutant survives, or when a case finds fault with an endpoint as it is.
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
    """What is tried: the endpoints as they are, then the mutants; those that a word is about.

    Args:
        only: words; one of them is a part of the name, or is the area or the role.
        role: of these only.
    """
    mutated = [Subject(mutant.role, mutant.device, mutant) for mutant in mutants()]
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
@click.option("--only", default="", metavar="WORDS", help="Names, parts of them, or areas.")
@click.option("--role", type=click.Choice(tuple(ROLES)), help="Of these endpoints only.")
@click.option("--jobs", default=2, show_default=True, help="How many are tried side by side.")
@click.option("--every", is_flag=True, help="Run all cases on each, not only until one finds it.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), metavar="FILE")
@click.option(
    "--document",
    "docs",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Write the list of mutants there, if all were tried.",
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
        raise click.UsageError(f"no mutant is called, or is about, {only!r}")
    console = Console(width=None if sys.stdout.isatty() else _WIDTH, highlight=False)
    begin = time.monotonic()
    trials = _try_all(chosen, jobs, console, every=every)
    seconds = time.monotonic() - begin
    console.print(table.table(trials))
    console.print(table.summary(trials, seconds))
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(table.to_json(trials, seconds), indent=1) + "\n")
    if docs is not None and not only and role is None:
        document.write(docs, trials)
    if not all(trial.as_it_should_be for trial in trials):
        raise click.exceptions.Exit(1)


def _try_all(chosen: Sequence[Subject], jobs: int, console: Console, *, every: bool) -> list[Trial]:
    """In the order of the catalogue, whatever the order in which they end."""
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
    # A process each: a trial opens and closes descriptors as its peer does, by their numbers.
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
