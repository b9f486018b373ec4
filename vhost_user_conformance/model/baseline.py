"""A baseline: the failures of a program that are known, one case for each line of a text file.

A line has the case's id, and perhaps the reason::

    # of my-backend 1.4
    VU-B-0401  closes the connection instead (bug 123)
    VU-B-0417? depends on the load

Empty lines, and those that begin with ``#``, mean nothing. An id with ``?`` is of a case that does
not fail in each run: it is never reported as mended.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vhost_user import input_file
from vhost_user.one_line import one_line
from vhost_user_conformance.errors import OptionError
from vhost_user_conformance.model.result import Known
from vhost_user_conformance.model.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from vhost_user_conformance.model.case import Case
    from vhost_user_conformance.model.result import CaseResult

#: Bytes of the largest file that is read: a thousand times what all cases take.
MAX_BYTES = 1 << 24
#: Characters of a reason.
MAX_REASON = 1000
#: Cases that do not fail any more and are named in an error.
_SHOWN = 5
_HEAD = "# Known failures: an id on each line, and the reason. See emu conform --known.\n"


def read(option: str, path: Path, cases: Iterable[Case]) -> dict[str, Known]:
    """The known failures in a file, by the ids of the cases.

    Args:
        option: that names the file, for errors.
        path: of the file.
        cases: all cases for the role of the peer.

    Raises:
        OptionError: a line is not the id of one of the cases, or two lines have the same id.
        OSError: the file cannot be read.
    """
    data = input_file.read(path, MAX_BYTES)
    ids = {case.id for case in cases}
    known: dict[str, Known] = {}
    for number, line in enumerate(data.decode(errors="replace").splitlines(), 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        word, *rest = text.split(maxsplit=1)
        name = word.removesuffix("?")
        where = f"{option} {path}, line {number}"
        if name not in ids:
            letter = min(ids)[:5] if ids else ""
            raise OptionError(f"{where}: {one_line(name, 40)} is no id of a case ({letter}...)")
        if name in known:
            raise OptionError(f"{where}: {name} is also on line {known[name].line}")
        reason = one_line("".join(rest).lstrip("# "), MAX_REASON)
        known[name] = Known(number, reason, sometimes=word.endswith("?"))
    return known


def marked(result: CaseResult, known: Mapping[str, Known]) -> CaseResult:
    """The result, with the line of the baseline that is about its case, if there is one."""
    return result._replace(known=known.get(result.case.id))


def complaint(option: str, path: Path, mended: Sequence[CaseResult]) -> str:
    """What is wrong with a file whose cases do not fail any more: one line.

    Args:
        option: that names the file.
        path: of the file.
        mended: the results of these cases, at least one.
    """
    names = [
        f"{result.case.id} (line {result.known.line})"
        for result in mended[:_SHOWN]
        if result.known is not None
    ]
    more = f" and {len(mended) - _SHOWN} more" * (len(mended) > _SHOWN)
    return (
        f"{option} {path}: {', '.join(names)}{more}: known to fail, and does not fail any more; "
        "remove the line"
    )


def updated(results: Iterable[CaseResult], known: Mapping[str, Known]) -> str:
    """The file after a run: its failures, and those of the former file that it has not disproved.

    Args:
        results: of the run, which may have left out cases.
        known: of the former file, if there is one. Their reasons are kept.
    """
    judged = {result.case.id: result for result in results}
    lines = {}
    for name, entry in known.items():
        verdict = judged[name].verdict if name in judged else Verdict.FAIL
        if entry.sometimes or verdict not in (Verdict.PASS, Verdict.OBSERVED):
            lines[name] = f"{name}{'?' * entry.sometimes} {entry.reason}".rstrip()
    for name, result in judged.items():
        if result.verdict is Verdict.FAIL:
            lines.setdefault(name, f"{name} {result.case.rule}")
    return _HEAD + "".join(f"{lines[name]}\n" for name in sorted(lines))
