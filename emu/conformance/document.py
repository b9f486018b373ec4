"""The list of all cases, as a document: ``python -m emu.conformance.document docs``."""

from __future__ import annotations

import sys
from pathlib import Path

from emu.conformance.back_end import AREAS

DOCUMENT = "conformance/cases.md"
_COLUMNS = "| id | rule | source | severity | needs |\n|---|---|---|---|---|\n"
_HEAD = """# The cases

Written by `make docs` from the cases themselves (`emu/conformance/back_end/`). {count} cases for
back-ends. *needs* are protocol features, or the class of device; *work* means that the device is
asked to serve requests, so that it has to be named with `--device`.
"""


def listing() -> str:
    """The document."""
    parts = [_HEAD.format(count=sum(len(area.cases) for area in AREAS))]
    for area in AREAS:
        parts.append(f"\n## {area.name}\n\n{_COLUMNS}")
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
