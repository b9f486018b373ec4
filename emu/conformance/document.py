"""The list of all cases, as a document: ``python -m emu.conformance.document docs``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from emu.conformance import back_end, front_end

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emu.conformance.case import Area

DOCUMENT = "conformance/cases.md"
_COLUMNS = "| id | rule | source | severity | needs |\n|---|---|---|---|---|\n"
_HEAD = """# The cases

Written by `make docs` from the cases themselves (`emu/conformance/`): {back} for back-ends, {front}
for front-ends. *needs* are protocol features, or the class of device; *work* means that the device
is asked to serve requests, so that it has to be named with `--device`.
"""


def listing() -> str:
    """The document."""
    parts = [_HEAD.format(back=_count(back_end.AREAS), front=_count(front_end.AREAS))]
    for role, areas in (("back-ends", back_end.AREAS), ("front-ends", front_end.AREAS)):
        parts.append(f"\n## Cases for {role}\n")
        parts += [_table(area) for area in areas]
    return "".join(parts)


def _count(areas: Sequence[Area]) -> int:
    return sum(len(area.cases) for area in areas)


def _table(area: Area) -> str:
    parts = [f"\n### {area.name}\n\n{_COLUMNS}"]
    for case in area.cases:
        needs = [*case.needs, *([case.device] if case.device else [])]
        if case.works and not case.device:
            needs.append("work")
        row = (case.id, case.rule, case.spec, str(case.severity), " ".join(needs))
        parts.append("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |\n")
    return "".join(parts)


if __name__ == "__main__":
    path = Path(sys.argv[1]) / DOCUMENT
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(listing())
