"""Parts of a peer's cases."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from emu.cluster.worker import Output
from emu.conformance.parts import PartError, tasks, whole
from emu.conformance.peers_file import Peer
from vhost_user_conformance.model.case import FRONT_END
from vhost_user_conformance.model.result import CaseResult, document
from vhost_user_conformance.model.verdict import Verdict
from vhost_user_conformance.target import Target, shard

PEER = Peer("mine", Target(command="mine {socket}"), only=("framing",))


def part(number: int, count: int, **changes: Any) -> Output:
    """The output of a part of which all cases pass, but for the first one."""
    cases = shard(PEER.cases, number, count)
    results = [
        CaseResult(case, Verdict.PASS if at else Verdict.FAIL, "this", "that", 1.5)
        for at, case in enumerate(cases)
    ]
    written = document("back-end", {"program": "mine"}, {"rings": 2}, results)
    return Output(1, json.dumps({**written, **changes}).encode())


def test_the_parts_are_put_together_in_the_order_of_the_cases() -> None:
    found = whole(PEER, [part(2, 2), part(1, 2)])
    assert [result.case for result in found.results] == PEER.cases
    assert [result.verdict for result in found.results].count(Verdict.FAIL) == 2
    assert (found.peer, found.offered) == ({"program": "mine"}, {"rings": 2})


@pytest.mark.parametrize(
    ("outputs", "line"),
    [
        ([part(1, 2)], "cases were not run, such as VU-B-"),
        ([part(1, 1), part(1, 2)], "is not one of this part"),
        ([part(1, 1), Output(2, b"", "its process ended with status 2: no")], "status 2: no"),
        ([Output(None, failure="the worker that ran it has ended")], "the worker that ran it"),
        ([Output(0, b"")], "it has written nothing"),
        ([Output(0, b"hello")], "something else than verdicts"),
        ([part(1, 1, cases=[{"id": 5}])], "something else than verdicts"),
    ],
)
def test_a_part_that_was_not_run_is_one_line(outputs: list[Output], line: str) -> None:
    with pytest.raises(PartError, match=line):
        whole(PEER, outputs)


def test_a_verdict_that_is_not_known_is_one_line() -> None:
    text = part(1, 1).data.decode().replace('"PASS"', '"PERHAPS"')
    with pytest.raises(PartError, match="'PERHAPS' is not a valid Verdict"):
        whole(PEER, [Output(1, text.encode())])


def test_a_task_is_the_command_with_a_part() -> None:
    first, _second = tasks(PEER, 2)
    assert first.label == "mine 1/2"
    words = first.words
    assert words[:5] == ("emu.cli", "conform", "back-end", "--exec", "mine {socket}")
    assert words[words.index("--shard") + 1] == "1/2"
    assert words[-2:] == ("--only", "framing")
    assert len(tasks(PEER, 1000)) == len(PEER.cases)


def test_a_task_has_the_options_of_its_peer() -> None:
    target = Target(FRONT_END, command="vmm {socket}", device="blk", patience=9.0, destination="d")
    (task,) = tasks(Peer("vmm", target, known=Path("known.txt")), 1)
    text = " ".join(task.words)
    assert "conform front-end --exec vmm {socket}" in text
    assert "--device blk --patience 9.0 --destination d" in text
    scratch = Target(command="mine {socket}", device="blk", scratch=True)
    assert "--scratch" in tasks(Peer("blk", scratch), 1)[0].words
