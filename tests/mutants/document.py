"""The list of mutants, as a document: the catalogue, and what caught each when all were tried."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.mutants.catalogue import ROLES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.mutants.trial import Trial

DOCUMENT = "conformance/mutants.md"
_HEAD = """# Mutants: mistakes that the suite finds

Written by `make mutants`. A suite whose cases never fail would look like a good one. So one-line
protocol mistakes are made in this project's endpoints, one at a time
(`tests/mutants/back_end.toml`, `tests/mutants/front_end.toml`), and a case has to find each; the
unmodified endpoints have to pass. The code of the endpoints is not prepared for this: a launcher
compiles one module with one text replaced.

    make mutants                          # all of them
    make mutants ONLY="dirty_log leak"    # areas, names, or parts of names

The last run of all mutants: {counts}.
*caught by* lists the cases that were run and failed. The cases of the catalogue entry are run
first; if none of them fails, the other cases are run until one does.
"""
_COLUMNS = "| mutant | the mistake | made in | caught by |\n|---|---|---|---|\n"


def text(trials: Sequence[Trial]) -> str:
    """The document."""
    parts = [_HEAD.format(counts=_counts(trials))]
    for role in ROLES:
        of_role = [trial for trial in trials if trial.subject.role == role]
        mutated = [trial for trial in of_role if trial.subject.mutant]
        parts.append(f"\n## Mistakes of a {role}\n\n{_COLUMNS}")
        parts += [_row(trial) for trial in mutated]
    return "".join(parts)


def write(docs: Path, trials: Sequence[Trial]) -> None:
    """Write the document."""
    (docs / DOCUMENT).write_text(text(trials))


def _counts(trials: Sequence[Trial]) -> str:
    parts = []
    for role in ROLES:
        of_role = [trial for trial in trials if trial.subject.role == role]
        mutated = [trial for trial in of_role if trial.subject.mutant]
        caught = sum(bool(trial.findings) for trial in mutated)
        parts.append(f"{caught} of {len(mutated)} mistakes of a {role}")
    return f"{' and '.join(parts)} were caught"


def _row(trial: Trial) -> str:
    mutant = trial.subject.mutant
    assert mutant is not None
    by = ", ".join(dict.fromkeys(finding.case for finding in trial.findings))
    device = "" if mutant.device == "blk" else f" ({mutant.device})"
    cells = (mutant.name, mutant.mistake + device, f"`{mutant.module}`", by or "**nothing**")
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"
