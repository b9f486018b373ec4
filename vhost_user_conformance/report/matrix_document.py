"""The matrix as a document: each rule with what covers it, and each case with its rules."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vhost_user_conformance.report.matrix import count, rules_by_case
from vhost_user_conformance.rules import CHAPTERS
from vhost_user_conformance.rules.rule import Covered
from vhost_user_conformance.target import ROLES, areas_of

if TYPE_CHECKING:
    from vhost_user_conformance.rules.rule import Chapter, Cover

MATRIX = "conformance/matrix.md"
_HEAD = """# Rules and cases

Written by `make docs` from `vhost_user_conformance/rules/`: each rule of the protocol in one
sentence, its source (a section of the specification, a commit, or a program that does so), and
the [cases](cases.md) that test it: `B-` for back-ends and `F-` for front-ends. `0101..0108` are
all cases with a number in this range. "-" means that the rule does not apply to this role. If no
case can test the rule, the table has the reason.

| | rules | covered by cases | not testable from outside | cases |
|---|---|---|---|---|
"""


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _shown(cover: Cover | None, role: str) -> str:
    """What covers a rule, as the document shows it."""
    if cover is None:
        return "-"
    if isinstance(cover, Covered):
        return cover.shown(role)
    return f"*not testable from outside*: {cover.why}"


def _chapter(chapter: Chapter) -> str:
    lines = [
        f"\n## {chapter.title}\n",
        "| id | rule | source | back-ends | front-ends |",
        "|---|---|---|---|---|",
    ]
    for rule in sorted(chapter.rules, key=lambda rule: rule.id):
        covers = [_shown(rule.cover(role), role) for role in ROLES]
        cells = [rule.id, rule.text, rule.source, *covers]
        lines.append("| " + " | ".join(map(_cell, cells)) + " |")
    return "\n".join(lines) + "\n"


def _cases(role: str) -> str:
    """The rules of each case."""
    found = rules_by_case(role)
    lines = [f"\n## The rules of each case for {role}s\n", "| case | rules |", "|---|---|"]
    for area in areas_of(role):
        lines += [f"| {case.id} | {' '.join(found[case.id])} |" for case in area.cases]
    return "\n".join(lines) + "\n"


def matrix() -> str:
    """The document."""
    parts = [_HEAD]
    for role in ROLES:
        counted = count(role)
        cells = (counted.rules, counted.covered, counted.not_from_outside, len(rules_by_case(role)))
        parts.append(f"| {role}s | {' | '.join(map(str, cells))} |\n")
    parts += [_chapter(chapter) for chapter in CHAPTERS]
    parts += [_cases(role) for role in ROLES]
    return "".join(parts)
