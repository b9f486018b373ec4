"""The parts of a peer's cases: as tasks of workers, and put together again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from emu.cluster.worker import Task
from emu.json_input import Each, JsonInputError, Map, Members, read
from vhost_user_conformance.model.case import BACK_END
from vhost_user_conformance.model.result import CaseResult
from vhost_user_conformance.model.verdict import Verdict
from vhost_user_conformance.target import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from emu.cluster.worker import Output
    from emu.conformance.peers_file import Peer

#: A run ends with status 1 if a case failed, and has written its document.
_FAILED = 1
_CASE = Members({"id": str, "verdict": str, "expected": str, "seen": str, "ms": float})
_DOCUMENT = Members(
    {"role": str, "peer": Map(object), "offered": Map(object), "cases": Each(_CASE)}
)


class PartError(ValueError):
    """A part of the cases was not run; the text is one line."""


class Whole(NamedTuple):
    """The results of all parts of a peer.

    Attributes:
        peer: how it was reached, as in the document.
        offered: its features and rings, as in the document.
        results: of its cases, in their order.
    """

    peer: dict[str, Any]
    offered: dict[str, Any]
    results: list[CaseResult]


def tasks(peer: Peer, parts: int) -> list[Task]:
    """A task for each part, not more than the peer has cases.

    Args:
        peer: to be tested.
        parts: their number.
    """
    count = max(1, min(parts, len(peer.cases)))
    return [
        Task(f"{peer.name} {number}/{count}", _words(peer, f"{number}/{count}"))
        for number in range(1, count + 1)
    ]


def _words(peer: Peer, shard: str) -> tuple[str, ...]:
    target = peer.target
    words = ["emu.cli", "conform", target.role, "--exec", target.command or ""]
    words += ["--dialect", target.dialect, "--shard", shard, "--quiet", "--json", "-"]
    if target.device:
        words += ["--device", target.device]
    if target.patience != PATIENCE:
        words += ["--patience", str(target.patience)]
    if target.scratch and target.role == BACK_END:
        words.append("--scratch")
    if target.destination is not None:
        words += ["--destination", target.destination]
    for each in peer.only:
        words += ["--only", each]
    return tuple(words)


def whole(peer: Peer, outputs: Iterable[Output]) -> Whole:
    """The results of a peer from the outputs of its tasks.

    Raises:
        PartError: a part was not run, or its cases are not those of the peer.
    """
    cases = {case.id: case for case in peer.cases}
    found: dict[str, CaseResult] = {}
    head: dict[str, Any] = {}
    for output in outputs:
        head = _document(output)
        for row in head["cases"]:
            if row["id"] not in cases or row["id"] in found:
                raise PartError(f"the case {row['id']} is not one of this part")
            found[row["id"]] = CaseResult(
                cases[row["id"]], Verdict(row["verdict"]), row["expected"], row["seen"], row["ms"]
            )
    if missing := [case for case in cases if case not in found]:
        raise PartError(f"{len(missing)} cases were not run, such as {missing[0]}")
    return Whole(head["peer"], head["offered"], [found[case] for case in cases])


def _document(output: Output) -> dict[str, Any]:
    if output.status not in (0, _FAILED) or not output.data:
        raise PartError(output.failure or "it has written nothing")
    try:
        document: dict[str, Any] = read(output.data, _DOCUMENT)
        for row in document["cases"]:
            Verdict(row["verdict"])
    except (JsonInputError, ValueError) as error:
        raise PartError(f"it has written something else than verdicts: {error}") from None
    return document
