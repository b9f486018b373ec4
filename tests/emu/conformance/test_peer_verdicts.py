"""A peer whose parts have run."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from emu.cluster.worker import Output
from emu.conformance.parts import tasks
from emu.conformance.peer_verdicts import PeerVerdicts, table
from tests.emu.conformance.test_parts import PEER, part
from vhost_user_conformance.model.result import Known


def verdicts(**changes: object) -> PeerVerdicts:
    made = PeerVerdicts(PEER, tasks=tasks(PEER, 2))
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def test_the_verdicts_are_there_when_all_parts_have_run() -> None:
    made = verdicts()
    assert made.failure(strict=False) == "it was not tested to the end"
    made.add(made.tasks[1], part(2, 2))
    with pytest.raises(ValueError, match="mine was not tested"):
        made.document()
    made.add(made.tasks[0], part(1, 2))
    assert made.whole is not None
    assert made.failure(strict=False).startswith("2 cases failed, such as VU-B-")
    document = made.document()
    assert document["summary"]["FAIL"] == 2
    assert "known" not in document


def test_a_part_that_failed_is_the_reason() -> None:
    made = verdicts()
    made.add(made.tasks[0], part(1, 2))
    made.add(made.tasks[1], Output(None, failure="the worker that ran it has ended"))
    assert made.failure(strict=False) == "the worker that ran it has ended"


def test_known_failures_do_not_fail_the_peer() -> None:
    made = verdicts()
    for number, task in enumerate(made.tasks, 1):
        made.add(task, part(number, 2))
    assert made.whole is not None
    failed = [each.case.id for each in made.whole.results if each.verdict == "FAIL"]
    peer = PEER.__class__(PEER.name, PEER.target, PEER.only, Path("known.txt"))
    known = {case: Known(at) for at, case in enumerate(failed, 1)}
    again = verdicts(peer=peer, known=known)
    for number, task in enumerate(again.tasks, 1):
        again.add(task, part(number, 2))
    assert again.failure(strict=False) == ""
    assert again.document()["known"]["failed"] == failed
    passing = next(case.id for case in PEER.cases if case.id not in failed)
    mended = verdicts(known={**known, passing: Known(9)})
    for number, task in enumerate(mended.tasks, 1):
        mended.add(task, part(number, 2))
    assert mended.failure(strict=False) == f"{passing} is known to fail, and does not fail any more"


def test_each_peer_is_a_row() -> None:
    made = verdicts()
    for number, task in enumerate(made.tasks, 1):
        made.add(task, part(number, 2))
    out = io.StringIO()
    Console(file=out, width=80).print(table([made, verdicts()]))
    rows = [line.split() for line in out.getvalue().splitlines() if line.strip()]
    count = len(PEER.cases)
    assert ["mine", str(count - 2), "2", "-", "-", "-"] in rows
    assert ["mine", "not", "tested"] in rows
