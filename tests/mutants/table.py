"""The output of `make mutants`, as a table and as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.mutants.trial import Trial

SCHEMA = 1
#: Characters of a case's evidence.
_SHOWN = 100


def verdict(trial: Trial) -> Text:
    """The outcome of a trial, in a word or two."""
    if trial.subject.mutant is None:
        if trial.findings:
            return Text(f"{len(trial.findings)} FAIL", style="bold red")
        return Text("nothing found", style="green")
    if not trial.findings:
        return Text("SURVIVED", style="bold red")
    return Text("caught, unforeseen", "yellow") if trial.by_surprise else Text("caught", "green")


def table(trials: Sequence[Trial]) -> Table:
    """A row for each trial."""
    whole = Table(box=box.SIMPLE, pad_edge=False)
    for heading in ("area", "mutant", "", "by", "which saw"):
        whole.add_column(heading, no_wrap=heading != "which saw")
    whole.add_column("s", justify="right")
    for trial in trials:
        mutant = trial.subject.mutant
        by = ", ".join(dict.fromkeys(finding.case for finding in trial.findings))
        seen = trial.findings[0].seen if trial.findings else ""
        whole.add_row(
            f"{trial.subject.role}: {mutant.area}" if mutant else trial.subject.role,
            trial.subject.name,
            verdict(trial),
            by if mutant or len(by) < _SHOWN else by[:_SHOWN] + " ...",
            Text(seen if len(seen) <= _SHOWN else seen[:_SHOWN] + " ..."),
            f"{trial.seconds:.1f}",
        )
    return whole


def summary(trials: Sequence[Trial], seconds: float) -> str:
    """The last line."""
    mutated = [trial for trial in trials if trial.subject.mutant]
    caught = sum(bool(trial.findings) for trial in mutated)
    whole = [trial for trial in trials if trial.subject.mutant is None]
    clean = sum(not trial.findings for trial in whole)
    parts = [f"{caught} of {len(mutated)} mutants caught"]
    if whole:
        parts.append(f"{clean} of {len(whole)} unmutated endpoints pass")
    return f"{'; '.join(parts)}; {seconds:.0f} s"


def to_json(trials: Sequence[Trial], seconds: float) -> dict[str, Any]:
    """The results as JSON."""
    return {
        "schema": SCHEMA,
        "seconds": round(seconds, 1),
        "trials": [_row(trial) for trial in trials],
    }


def _row(trial: Trial) -> dict[str, Any]:
    mutant = trial.subject.mutant
    gone, come = mutant.change() if mutant else ([], [])
    return {
        "name": trial.subject.name,
        "role": trial.subject.role,
        "device": trial.subject.device,
        "area": mutant.area if mutant else None,
        "module": mutant.module if mutant else None,
        "mistake": mutant.mistake if mutant else None,
        "removed": gone,
        "added": come,
        "as_it_should_be": trial.as_it_should_be,
        "findings": [finding._asdict() for finding in trial.findings],
        "cases_run": trial.cases,
        "seconds": round(trial.seconds, 3),
    }
