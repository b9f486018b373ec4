"""How a case can end."""

from __future__ import annotations

from enum import StrEnum
from typing import NoReturn


class Verdict(StrEnum):
    """What a case says of the peer.

    PASS: it keeps the rule. FAIL: it breaks it. UNSUPPORTED: it does not offer what the rule is
    about. OBSERVED: the specification is silent, or contradicts itself; what was seen is told, and
    fails nobody. ERROR: the suite could not tell.
    """

    PASS = "PASS"  # noqa: S105  no password
    FAIL = "FAIL"
    UNSUPPORTED = "UNSUPPORTED"
    OBSERVED = "OBSERVED"
    ERROR = "ERROR"


class Severity(StrEnum):
    """How much a broken rule matters.

    MUST: a peer that relies on it fails. SHOULD: a robust peer gets by. MAY: good to know.
    """

    MUST = "must"
    SHOULD = "should"
    MAY = "may"


class CaseEnd(Exception):
    """A case has come to its verdict before its end.

    Attributes:
        verdict: which.
        expected: what the rule wants, in words.
        seen: what came instead.
        line: where it stands in the transcript, behind it; None for its end.
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
    """There is no rule to break; this is what was seen."""

    verdict = Verdict.OBSERVED


def check(holds: object, expected: str, seen: str) -> None:
    """Go on if it holds.

    Raises:
        Failed: it does not.
    """
    if not holds:
        raise Failed(expected, seen)


def unsupported(why: str) -> NoReturn:
    """Say that the peer does not offer what is needed."""
    raise Unsupported(seen=why)


def observed(seen: str) -> NoReturn:
    """Tell what was seen where there is no rule."""
    raise Observed(seen=seen)
