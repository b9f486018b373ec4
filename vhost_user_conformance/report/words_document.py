"""The document of the words of the text that make a case a MUST."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vhost_user_conformance.model.verdict import Severity
from vhost_user_conformance.report.matrix import rules, rules_by_case
from vhost_user_conformance.rules.words import KILLS, LOSES, TEXT, words_of
from vhost_user_conformance.target import ROLES, areas_of

if TYPE_CHECKING:
    from vhost_user_conformance.model.case import Case
    from vhost_user_conformance.rules.words import Word

DOCUMENT = "conformance/severities.md"
_HEAD = f"""# Why a case is a MUST

Written by `make docs` from `vhost_user_conformance/rules/words.py`. A case is a MUST if one of its
[rules](matrix.md) is in a sentence with MUST, must, shall, "has to", "needs to" or "mandatory";
the table has the section of the specification, the commit at which the sentence can be read, and
the key word. A rule that the text words more weakly, or not at all, is a MUST only if a peer that
breaks it loses data of the guest, or ends or hangs another program; the table has that instead of
a key word. Each other case is a SHOULD, or a MAY where the text permits the behaviour or is silent.

The specification is QEMU's `docs/interop/vhost-user.rst`, read at {TEXT}, and virtio 1.3 for the
requests in a ring. *why* is a summary, not the sentence.
"""


def founded(role: str) -> dict[str, dict[str, Word]]:
    """The words behind each MUST of a role, by case and then by rule."""
    known = {rule.id: rule for rule in rules()}
    found = rules_by_case(role)
    cases = [case for area in areas_of(role) for case in area.cases]
    return {
        case.id: words_of(case, [known[each] for each in found[case.id]])
        for case in cases
        if case.severity is Severity.MUST
    }


def _row(case: Case, words: dict[str, Word]) -> str:
    """One case; a key word of the text is preferred to a loss."""
    rule, word = min(words.items(), key=lambda item: item[1].word in (LOSES, KILLS))
    shown = word.word if word.word in (LOSES, KILLS) else f"**{word.word}**"
    cells = (case.id, rule, word.section, word.commit, shown, word.why)
    return f"| {' | '.join(cells)} |\n"


def severities() -> str:
    """The document."""
    parts = [_HEAD]
    for role in ROLES:
        words = founded(role)
        parts.append(f"\n## Cases for {role}s\n")
        for area in areas_of(role):
            rows = [_row(case, words[case.id]) for case in area.cases if case.id in words]
            if rows:
                parts.append(
                    f"\n### {area.name}\n\n| case | rule | section | commit | word | why |\n"
                )
                parts.append("|---|---|---|---|---|---|\n")
                parts += rows
    return "".join(parts)
