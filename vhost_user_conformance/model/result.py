"""The result of a case, and of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from vhost_user_conformance.model.case import SANITY
from vhost_user_conformance.model.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from vhost_user_conformance.model.case import Case

SCHEMA = 1
#: Lines of a transcript that a verdict shows.
SHOWN = 12


class Known(NamedTuple):
    """A case that is known to fail on the peer: a line of a baseline.

    Attributes:
        line: its number, from 1.
        reason: perhaps empty.
        sometimes: the case does not fail in each run.
    """

    line: int
    reason: str = ""
    sometimes: bool = False


class CaseResult(NamedTuple):
    """One case's verdict.

    Attributes:
        case: which.
        verdict: how it ended.
        expected: what the rule requires.
        seen: what the peer did, and the messages before that.
        ms: milliseconds that it took.
        known: it is known to fail.
    """

    case: Case
    verdict: Verdict
    expected: str
    seen: str
    ms: float
    known: Known | None = None

    @property
    def known_failure(self) -> bool:
        """Whether it has no verdict, or the peer breaks the rule, as is known."""
        return self.known is not None and self.verdict in (Verdict.FAIL, Verdict.ERROR)

    @property
    def mended(self) -> bool:
        """Whether it does not fail, although it is known to fail in each run."""
        expected = self.known is not None and not self.known.sometimes
        return expected and self.verdict in (Verdict.PASS, Verdict.OBSERVED)

    def to_json(self) -> dict[str, Any]:
        """A row of ``cases``."""
        row = described(self.case) | {
            "verdict": str(self.verdict),
            "expected": self.expected,
            "seen": self.seen,
            "ms": round(self.ms, 3),
        }
        return row if self.known is None else row | {"known": self.known.reason}


def described(case: Case) -> dict[str, Any]:
    """The part of a row that does not depend on a run."""
    return {
        "id": case.id,
        "area": case.area,
        "rule": case.rule,
        "spec": case.spec,
        "severity": str(case.severity),
        "needs": list(case.needs),
        "device": case.device or None,
    }


class Offered(NamedTuple):
    """What a peer offers, read before any case runs."""

    features: int
    protocol_features: int
    rings: int

    def to_json(self) -> dict[str, Any]:
        """With the bits as hexadecimal numbers, as specifications write them."""
        return {
            "features": f"{self.features:#x}",
            "protocol_features": f"{self.protocol_features:#x}",
            "rings": self.rings,
        }


def evidence(seen: str, transcript: Sequence[str]) -> str:
    """What was seen, and the last lines of the transcript before it."""
    cut = len(transcript) - SHOWN
    before = [f"... ({cut} lines before)"] if cut > 0 else []
    return "\n".join([seen, *before, *transcript[-SHOWN:]])


def summary(results: Iterable[CaseResult]) -> dict[str, int]:
    """The number of each verdict."""
    counts = dict.fromkeys(map(str, Verdict), 0)
    for result in results:
        counts[str(result.verdict)] += 1
    return counts


def not_sane(results: Iterable[CaseResult]) -> list[CaseResult]:
    """The results of the first and the last cases of a run that show that the peer does not work.

    Each working peer passes them. If one did not, the other verdicts show nothing: a peer that
    does nothing breaks few rules. A case that is UNSUPPORTED, as the class of device is not known,
    is made up for by another one of the first or the last cases that passes.
    """
    sanity = [result for result in results if result.case.area == SANITY]
    found = []
    for last in (False, True):
        group = [result for result in sanity if result.case.is_last is last]
        passes = any(result.verdict is Verdict.PASS for result in group)
        allowed = {Verdict.PASS, Verdict.UNSUPPORTED} if passes else {Verdict.PASS}
        found += [result for result in group if result.verdict not in allowed]
    return found


def document(
    role: str,
    peer: dict[str, Any],
    offered: dict[str, Any],
    results: Sequence[CaseResult],
    *,
    not_run: int = 0,
    known: bool = False,
) -> dict[str, Any]:
    """The whole of ``--json``.

    Args:
        role: ``back-end`` or ``front-end``.
        peer: how it was reached.
        offered: its features, and the number of its rings.
        results: one for each case that was run.
        not_run: the number of cases that a run has left out.
        known: there is a baseline.
    """
    failed = [result for result in results if result.verdict is Verdict.FAIL]
    baseline = {
        "failed": [result.case.id for result in failed if result.known is not None],
        "new": [result.case.id for result in failed if result.known is None],
        "mended": [result.case.id for result in results if result.mended],
    }
    return {
        "schema": SCHEMA,
        "role": role,
        "peer": peer,
        "offered": offered,
        "cases": [result.to_json() for result in results],
        "summary": summary(results),
        "not_sane": [result.case.id for result in not_sane(results)],
        "not_run": not_run,
        **({"known": baseline} if known else {}),
    }
