"""The list of mutants as a document: the catalogue, and the cases that caught each mutant.

``make mutants`` writes it from its trials. ``python -m tests.mutants.document DOCS``, a part of
``make docs``, writes the texts of the catalogue again and keeps the recorded cases.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.mutants.catalogue import KINDS, ROLES, Mutant, mutants

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.mutants.trial import Trial

DOCUMENT = "conformance/mutants.md"
_HEAD = """# Mutants: mistakes that the suite finds

Written by `make mutants`. A suite whose cases cannot fail would pass on every program. So one-line
mistakes are made in this project's endpoints, one at a time (`tests/mutants/back_end.toml`,
`tests/mutants/front_end.toml`); at least one case has to fail for each, and all have to pass on the
unmodified endpoints. The code of the endpoints has no hooks for this: a launcher compiles one
module with one text replaced.

<!-- run skip="hours; make test-all runs a part of them" -->

    make mutants                          # all of them
    make mutants ONLY="dirty_log leak"    # areas, names, or parts of names

The last run of each mutant: {counts}.
*caught by* lists the cases that were run and failed. The cases of the catalogue entry are run
first; if none of them fails, the other cases are run until one does. *case* is *new* where the case
was written because the suite did not find the mistake, and *old* where it was there before.

{kinds}"""
#: In place of cases where none failed.
_NOTHING = "**nothing**"
_HEADINGS = ("| mutant |", "| kind |", "| back-end: ", "| front-end: ")
_COLUMNS = "| mutant | the mistake | made in | case | caught by |\n|---|---|---|---|---|\n"


def text(caught_by: Mapping[str, str]) -> str:
    """The document.

    Args:
        caught_by: the cases that caught a mutant, by its name. Mutants without an entry are left
            out: they have not been run.
    """
    parts = [_HEAD.format(counts=_counts(caught_by), kinds=_kinds())]
    for role in ROLES:
        parts.append(f"\n## Mistakes of a {role}\n\n{_COLUMNS}")
        parts += [_row(mutant, caught_by[mutant.name]) for mutant in _tried(role, caught_by)]
    return "".join(parts)


def write(docs: Path, trials: Sequence[Trial]) -> None:
    """Write the document after these mutants were run; the others stay as they were recorded."""
    now = {
        trial.subject.mutant.name: ", ".join(
            dict.fromkeys(finding.case for finding in trial.findings)
        )
        for trial in trials
        if trial.subject.mutant is not None
    }
    (docs / DOCUMENT).write_text(text(recorded(docs) | now))


def recorded(docs: Path) -> dict[str, str]:
    """The cases that caught each mutant, as the document has them; none where there is none."""
    found: dict[str, str] = {}
    path = docs / DOCUMENT
    for line in path.read_text().splitlines() if path.exists() else ():
        if line.startswith("| ") and not line.startswith(_HEADINGS):
            name, *_, cases = (cell.strip() for cell in line.strip("| ").split("|"))
            found[name] = "" if cases == _NOTHING else cases
    return found


def _tried(role: str, caught_by: Mapping[str, str]) -> list[Mutant]:
    return [each for each in mutants() if each.role == role and each.name in caught_by]


def _counts(caught_by: Mapping[str, str]) -> str:
    parts = []
    for role in ROLES:
        tried = _tried(role, caught_by)
        caught = sum(bool(caught_by[mutant.name]) for mutant in tried)
        parts.append(f"{caught} of {len(tried)} mistakes of a {role}")
    return f"{' and '.join(parts)} were caught"


def _kinds() -> str:
    """How many mutants there are of each kind that the suite once did not find."""
    rows = []
    for role, kinds in KINDS.items():
        for kind in kinds:
            of_it = [each for each in mutants() if (each.role, each.kind) == (role, kind)]
            new = sum(each.new_case for each in of_it)
            rows.append(f"| {role}: {kind} | {len(of_it)} | {len(of_it) - new} | {new} |\n")
    head = "| kind | mutants | found by old cases | by new cases |\n|---|---|---|---|\n"
    return head + "".join(rows)


def _row(mutant: Mutant, by: str) -> str:
    device = "" if mutant.device == "blk" else f" ({mutant.device})"
    case = "new" if mutant.new_case else "old"
    cells = (mutant.name, mutant.mistake + device, f"`{mutant.module}`", case, by or _NOTHING)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def main(arguments: Sequence[str]) -> None:
    """Write the document again from the catalogue and the recorded cases."""
    docs = Path(arguments[0])
    (docs / DOCUMENT).write_text(text(recorded(docs)))


if __name__ == "__main__":
    main(sys.argv[1:])
