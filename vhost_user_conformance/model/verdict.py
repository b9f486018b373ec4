"""Verdicts, and how a case reaches them."""

from __future__ import annotations

from enum import StrEnum
from typing import NoReturn


class Verdict(StrEnum):
    """The verdict of a case on the peer.

    PASS: it keeps the rule. FAIL: it breaks it. UNSUPPORTED: it does not offer what the rule is
    about. OBSERVED: the specification is silent, or contradicts itself; the behaviour is reported,
    and is not a failure. ERROR: the suite could not find out.
    """

    PASS = "PASS"  # noqa: S105  no password
    FAIL = "FAIL"
    UNSUPPORTED = "UNSUPPORTED"
    OBSERVED = "OBSERVED"
    ERROR = "ERROR"


class Severity(StrEnum):
    """How much a broken rule matters.

    MUST: the text has MUST, shall or the like, or the opposite loses data or ends a program
    (`rules.words`). SHOULD: a weaker word. MAY: the text permits it, or is silent.
    """

    MUST = "must"
    SHOULD = "should"
    MAY = "may"


class CaseEnd(Exception):
    """A case has reached its verdict before its end.

    Attributes:
        verdict: which.
        expected: what the rule requires, in words.
        seen: what the peer did instead.
        line: the line of the transcript after it; None for the end.
    """

    verdict = Verdict.ERROR

    def __init__(self, expected: str = "", seen: str = "", *, line: int | None = None) -> None:
        super().__init__(f"expected {expected}; {seen}" if expected else seen)
        self.expected = expected
        self.seen = seen
        self.line = line


class Failed(CaseEnd):
    """The peer broke the rule."""

    verdict = Verdict.FAIL


class Unsupported(CaseEnd):
    """The peer does not offer what the case needs."""

    verdict = Verdict.UNSUPPORTED


class Observed(CaseEnd):
    """No rule applies; the text is what was seen."""

    verdict = Verdict.OBSERVED


def check(holds: object, expected: str, seen: str) -> None:
    """Return if the condition holds.

    Raises:
        Failed: it does not hold.
    """
    if not holds:
        raise Failed(expected, seen)


def unsupported(why: str) -> NoReturn:
    """End the case as UNSUPPORTED, for this reason."""
    raise Unsupported(seen=why)


def observed(seen: str) -> NoReturn:
    """End the case as OBSERVED, with what was seen."""
    raise Observed(seen=seen)
