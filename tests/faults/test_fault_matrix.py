"""Whatever fails, the migration ends in time, and nothing is lost, duplicated or corrupted.

`make fault-matrix` runs all cells and prints them as a table; without ``--fault-matrix`` a small
fixed part runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.faults.cell_run import LIMIT
from tests.faults.cells import all_cells
from tests.faults.conftest import FIXED

if TYPE_CHECKING:
    from tests.faults.cells import Cell
    from tests.faults.conftest import Bench


@pytest.mark.slow
def test_cell(cell: Cell, bench: Bench) -> None:
    """`CellRun.run` raises the check that failed."""
    result = bench.run(cell)
    assert result.outcome in ("completed", "rolled-back")
    assert result.seconds < LIMIT
    integrity = result.integrity
    assert (integrity.lost, integrity.duplicated, integrity.corrupted) == (0, 0, 0)
    assert integrity.requests


def test_the_matrix_is_large_enough_and_holds_the_fixed_part() -> None:
    """At least 300 possible cells, each with a unique name."""
    cells = list(all_cells())
    possible = {cell.name for cell in cells if not cell.impossible}
    assert len({cell.name for cell in cells}) == len(cells)
    assert len(possible) >= 300
    assert set(FIXED) <= possible
