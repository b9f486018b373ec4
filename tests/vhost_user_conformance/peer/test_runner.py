"""What both runners share: the peer's description, and which cases apply to it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from vhost_user.features import SPEC, ProtocolFeature
from vhost_user_conformance.model.case import BACK_END, Area, Case
from vhost_user_conformance.model.result import CaseResult, Offered
from vhost_user_conformance.model.verdict import Verdict
from vhost_user_conformance.peer.program import PeerProgram
from vhost_user_conformance.peer.runner import CaseRunner

if TYPE_CHECKING:
    from collections.abc import Iterable


class Runner(CaseRunner):
    """Runs nothing: a case that applies passes."""

    def probe(self) -> Offered:
        """See `CaseRunner.probe`."""
        self.offered = Offered(0, int(ProtocolFeature.MQ), 1)
        return self.offered

    def guard(self, cases: Iterable[Case]) -> None:
        """See `CaseRunner.guard`."""

    def _run(self, case: Case) -> CaseResult:
        missing = self._missing(case)
        verdict = Verdict.UNSUPPORTED if missing else Verdict.PASS
        return CaseResult(case, verdict, "", missing, 0.0)


def runner(program: PeerProgram | None = None) -> Runner:
    """Of a disk."""
    made = Runner(Path("/s"), program, device="blk", dialect=SPEC, timeout=1.0)
    made.probe()
    return made


@pytest.mark.parametrize(
    ("needs", "device", "missing"),
    [
        ((), "", ""),
        (("MQ",), "blk", ""),
        (("MQ", "REPLY_ACK"), "", "REPLY_ACK is not offered"),
        (("NO_SUCH_FEATURE",), "", "NO_SUCH_FEATURE is not offered"),
        ((), "net", "is about net: use --device net"),
    ],
)
def test_a_case_applies_by_its_features_and_its_class(
    needs: tuple[str, ...], device: str, missing: str
) -> None:
    """The reason names what is missing."""
    area = Area("a", BACK_END, "s")
    area.case(1, "one", needs=needs, device=device)(lambda _be: None)
    (result,) = runner().run(area.cases, lambda _result: None)
    assert result.seen == missing
    assert result.verdict is (Verdict.UNSUPPORTED if missing else Verdict.PASS)


def test_each_result_is_reported_when_it_is_there() -> None:
    """In the order of the cases."""
    area = Area("a", BACK_END, "s")
    for number in (1, 2, 3):
        area.case(number, "rule")(lambda _be: None)
    seen: list[CaseResult] = []
    assert runner().run(area.cases, seen.append) == seen
    assert [result.case.id for result in seen] == ["VU-B-0001", "VU-B-0002", "VU-B-0003"]


def test_the_description_of_a_peer(tmp_path: Path) -> None:
    """With the command, where the suite starts it."""
    described = {"socket": "/s", "command": None, "device": "blk", "dialect": SPEC.name}
    assert runner().describe() == described
    program = PeerProgram("true {socket}", tmp_path / "s", tmp_path / "log")
    assert runner(program).describe() == {**described, "command": program.command}
    assert not runner().gone
