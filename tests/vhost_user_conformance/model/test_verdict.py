"""The ends of a case, and their verdicts."""

from __future__ import annotations

import pytest

from vhost_user_conformance.model.verdict import (
    CaseEnd,
    Failed,
    Observed,
    Unsupported,
    Verdict,
    check,
    observed,
    unsupported,
)


def test_a_check_ends_the_case_only_where_it_does_not_hold() -> None:
    """With what was expected and seen."""
    check(1, "one", "none")
    with pytest.raises(Failed, match="expected one; none") as end:
        check(0, "one", "none")
    assert (end.value.verdict, end.value.expected, end.value.seen) == (
        Verdict.FAIL,
        "one",
        "none",
    )


def test_each_end_has_its_verdict() -> None:
    """CaseEnd itself is an ERROR."""
    with pytest.raises(Unsupported, match="no MQ") as missing:
        unsupported("no MQ")
    with pytest.raises(Observed, match="it closed") as seen:
        observed("it closed")
    assert missing.value.verdict is Verdict.UNSUPPORTED
    assert seen.value.verdict is Verdict.OBSERVED
    assert CaseEnd().verdict is Verdict.ERROR
