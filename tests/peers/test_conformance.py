"""The suite on programs of others: no hang, no ERROR, and every FAIL is explained.

``make peers`` runs all cases, and writes docs/conformance/results/; this is a part of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.peers import explanations
from tests.peers.programs import missing, number, version
from tests.peers.record import distil
from tests.peers.results import conform
from tests.peers.table import PEERS

if TYPE_CHECKING:
    from pathlib import Path

    from tests.peers.table import Peer

#: Seconds for one peer's part. It takes a third of that on an idle host.
LIMIT = 50.0


@pytest.mark.timeout(LIMIT + 30)
@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_every_failure_is_explained(peer: Peer, tmp_path: Path) -> None:
    """Of the areas that the table names."""
    why = missing(peer)
    if why:
        pytest.skip(why)
    areas = [word for area in peer.quick for word in ("--only", area)]
    whole = conform(peer, tmp_path, *areas, limit=LIMIT)
    said = version(peer)
    record = distil(
        [whole], peer=peer.name, version=number(said), said=said, command="", seconds=0.0
    )
    assert {case["area"] for case in whole["cases"]} == set(peer.quick)
    assert whole["summary"]["PASS"] > 0
    assert whole["summary"]["ERROR"] == 0, record.rows
    left = explanations.unexplained(record, explanations.load())
    assert left == [], [row for row in record.rows if row.id in left]
