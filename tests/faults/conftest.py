"""The selection of cells, the pair that they run on, and the table of results."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from tests.faults import table
from tests.faults.cell_run import CellRun
from tests.faults.cells import all_cells
from tests.faults.pair import Pair

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.faults.cell_run import CellResult
    from tests.faults.cells import Cell

#: What `make test-all` runs: each place, each fault and every strategy at least once.
FIXED = (
    "qemu-2021:source-back-end:stop-first-ring:die",
    "prewired:source-back-end:stop-last-ring:die",
    "split:source-back-end:stop-first-ring:hang",
    "prewired:destination-process:started:die",
    "threads:source-back-end:log-base:refuse",
    "qemu-2021:source-back-end:back-base:close",
    "threads:destination-back-end:memory-table:refuse",
    "split:destination-back-end:enable-last-ring:garbage",
    "prewired:destination-back-end:enable-first-ring:die",
    "qemu-2021:destination-back-end:connect:close",
    "prewired:destination-back-end:kick:hang",
    "prewired:destination-process:switch-over:die",
    "threads:destination-process:memory:close",
    "split:destination-process:prepared:garbage",
    "prewired:destination-process:over:close",
)


class Bench:
    """The pair of the session; it is replaced after a cell that failed."""

    def __init__(self) -> None:
        self.entries: list[table.Entry] = []
        self._pair: Pair | None = None

    def run(self, cell: Cell) -> CellResult:
        """Run a cell, and record its outcome for the table."""
        try:
            if self._pair is None:
                self._pair = Pair().__enter__()
            result = CellRun(self._pair, cell).run()
        except BaseException as error:
            self.entries.append(table.Entry(cell, None, str(error) or type(error).__name__))
            self.close()
            raise
        self.entries.append(table.Entry(cell, result))
        return result

    def close(self) -> None:
        """End the pair."""
        pair, self._pair = self._pair, None
        if pair is not None:
            pair.__exit__(None, None, None)


_BENCH = pytest.StashKey[Bench]()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each cell."""
    if "cell" in metafunc.fixturenames:
        cells = [cell for cell in all_cells() if not cell.impossible]
        if not metafunc.config.getoption("--fault-matrix"):
            cells = [cell for cell in cells if cell.name in FIXED]
        metafunc.parametrize("cell", cells, ids=lambda cell: cell.name)


@pytest.fixture(scope="module")
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """The pair that cells run on; its load takes processors from tests of other modules."""
    bench = request.config.stash[_BENCH] = Bench()
    yield bench
    bench.close()


def pytest_terminal_summary(config: pytest.Config) -> None:
    """Print the matrix, if it is enabled."""
    bench = config.stash.get(_BENCH, None)
    if bench is not None and config.getoption("--fault-matrix"):
        table.show(bench.entries, sys.stdout)
