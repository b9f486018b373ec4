"""The suite on programs of other projects: no hang, no ERROR, and each FAIL is explained.

``make peers`` runs all cases, and writes docs/conformance/results/; this is a part of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.peers import explanations
from tests.peers.programs import missing, number, version
from tests.peers.record import distil
from tests.peers.results import conform
from tests.peers.table import PEERS
from tests.timeouts import PROGRAM_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from tests.peers.table import Peer

pytestmark = pytest.mark.peer

#: Seconds for one peer: several times what an idle host takes.
LIMIT = PROGRAM_TIMEOUT


@pytest.mark.timeout(2 * LIMIT + 30)
@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_every_failure_is_explained(peer: Peer, tmp_path: Path) -> None:
    """In the areas `Peer.quick`.

    A case that is not explained is repeated with a longer --patience: on a host whose CPUs are
    busy, with testpmd for example, a peer may answer late.
    """
    why = missing(peer)
    if why:
        pytest.skip(why)
    whole = run(peer, tmp_path / "first", peer.quick)
    assert {case["area"] for case in whole["cases"]} == set(peer.quick)
    assert whole["summary"]["PASS"] > 0
    left = unexplained(peer, whole)
    if left:
        again = run(peer, tmp_path / "again", left, "--patience", "10")
        left = unexplained(peer, again)
    assert left == []


def run(peer: Peer, folder: Path, only: Iterable[str], *arguments: str) -> dict[str, Any]:
    """Run these areas or cases; the document of ``--json``."""
    folder.mkdir()
    words = [word for name in only for word in ("--only", name)]
    return conform(peer, folder, *words, *arguments, limit=LIMIT)


def unexplained(peer: Peer, whole: dict[str, Any]) -> list[str]:
    """The cases that failed without an explanation, and those that ended as ERROR."""
    output = version(peer)
    record = distil(
        [whole],
        peer=peer.name,
        version=number(output),
        version_output=output,
        command="",
        seconds=0.0,
    )
    errors = [case["id"] for case in whole["cases"] if case["verdict"] == "ERROR"]
    return [*explanations.unexplained(record, explanations.load()), *errors]
