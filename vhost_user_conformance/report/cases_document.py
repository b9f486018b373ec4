"""The suite's documents: ``python -m vhost_user_conformance.report.cases_document docs``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from vhost_user_conformance.back_end.front_ends import SCRIPTS
from vhost_user_conformance.back_end.script import EVERY, Step
from vhost_user_conformance.model.case import BACK_END, FRONT_END
from vhost_user_conformance.report.matrix_document import MATRIX, matrix
from vhost_user_conformance.report.words_document import DOCUMENT as SEVERITIES
from vhost_user_conformance.report.words_document import severities
from vhost_user_conformance.target import ROLES, areas_of, cases_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vhost_user_conformance.back_end.script import Part, Script
    from vhost_user_conformance.model.case import Area

DOCUMENT = "conformance/cases.md"
FRONT_ENDS = "conformance/front-ends.md"
_COLUMNS = "| id | rule | source | severity | needs |\n|---|---|---|---|---|\n"
_HEAD = """# The cases

Written by `make docs` from the cases themselves (`vhost_user_conformance/`): {back} for
back-ends, {front} for front-ends. *needs* lists the protocol features, or the device class,
without which a case is UNSUPPORTED; *work* means that the case has the device serve requests, so
that it needs `--device`. [The matrix](matrix.md) has the rule of each case, and
[severities](severities.md) the words of the text that make a case a MUST.
"""
_FRONT_ENDS_HEAD = """# How front-ends order their messages

Written by `make docs` from `vhost_user_conformance/back_end/front_ends.py`. The area `scripts`
replays these orders against a back-end. `(A B)` is sent for one ring after the other, `(A B) of
every ring` also for rings that the guest does not use. `A!` requests an acknowledgement if
REPLY_ACK was negotiated. `A+log` enables the dirty log. A message that needs a feature is left
out if the feature was not negotiated.
"""


def listing() -> str:
    """The document of the cases."""
    parts = [_HEAD.format(back=len(cases_of(BACK_END)), front=len(cases_of(FRONT_END)))]
    for role in ROLES:
        parts.append(f"\n## Cases for {role}s\n")
        parts += [_table(area) for area in areas_of(role)]
    return "".join(parts)


def _table(area: Area) -> str:
    parts = [f"\n### {area.name}\n\n{_COLUMNS}"]
    for case in area.cases:
        needs = [*case.needs, *([case.device] if case.device else [])]
        if case.works and not case.device:
            needs.append("work")
        row = (case.id, case.rule, case.spec, str(case.severity), " ".join(needs))
        parts.append("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |\n")
    return "".join(parts)


def _step(step: Step) -> str:
    name = step.id.name.removeprefix("SET_VRING_")
    if step.id.name in ("SET_VRING_ENABLE", "SET_STATUS"):
        name = f"{name} {step.num}"
    unless = f" (unless {step.unless.name})" if step.unless else ""
    return f"{name}{'+log' * step.log}{'!' * step.ack}{unless}"


def _part(part: Part) -> str:
    if isinstance(part, Step):
        return _step(part)
    steps = f"({' '.join(map(_step, part.steps))})"
    if isinstance(part.which, str):
        return f"{steps} of every ring" if part.which == EVERY else steps
    return f"{steps} of {', '.join(map(str, part.which))}"


def _order(parts: Iterable[Part]) -> str:
    return ", ".join(map(_part, parts)) or "-"


def _script(script: Script) -> str:
    knows = ", ".join(feature.name for feature in script.knows if feature.name)
    rows = {
        "negotiates": knows,
        "connects": _order(script.setup),
        "starts": _order(script.start),
        "stops": _order(script.stop),
        "starts again": _order(script.restart),
        "logs": _order(script.log),
        "stops logging": _order(script.unlog),
    }
    source = f"{script.source[0].upper()}{script.source[1:]}"
    lines = [f"\n## {script.name}\n", f"{source}. It drives {', '.join(script.drives)}.\n"]
    lines += ["| | |", "|---|---|", *(f"| {name} | {text} |" for name, text in rows.items())]
    return "\n".join(lines) + "\n"


def front_ends() -> str:
    """The document of the scripts."""
    return _FRONT_ENDS_HEAD + "".join(map(_script, SCRIPTS))


DOCUMENTS = {DOCUMENT: listing, MATRIX: matrix, FRONT_ENDS: front_ends, SEVERITIES: severities}

if __name__ == "__main__":
    for name, made in DOCUMENTS.items():
        path = Path(sys.argv[1]) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(made())
