"""The dirty pages of a VM with 180 GiB, whose dirty log has 5.9 MB: a bit for each page.

Memory was marked everywhere before, so no part of the log is a hole. A round finds the pages that
were marked since the last one, as each round of pre-copy and the blackout do: it reads and clears
the whole log, and joins its runs of pages with what the guest has written. Times are CPU time: it
waits for nothing.
"""

from __future__ import annotations

import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from emu.machine.ram import GuestRam
from emu.migration.ram_sync import RamSync
from vhost_user.dirty_log import DirtyLog

if TYPE_CHECKING:
    from bench.figures import Figure

MIB = 1 << 20
SIZE = 180 << 30


@pytest.mark.benchmark(timer=time.process_time)
@pytest.mark.parametrize(
    ("length", "distance"),
    [
        pytest.param(4096, 1 << 40, id="a page", marks=pytest.mark.smoke),
        pytest.param(4096, 1024 * MIB, id="a page in each GiB"),
        pytest.param(4096, 128 * MIB, id="a page in each 128 MiB"),
        pytest.param(4096, 16 * MIB, id="a page in each 16 MiB"),
        pytest.param(4096, 2 * MIB, id="a page in each 2 MiB"),
        pytest.param(2048 * MIB, 90 << 30, id="2 GiB in each 90 GiB"),
    ],
)
def test_dirty_log(
    benchmark: Any, figure: Figure, request: pytest.FixtureRequest, length: int, distance: int
) -> None:
    """Pages that are marked here and there, and many in a row."""
    with closing(GuestRam(SIZE)) as ram, closing(DirtyLog.create(ram.pages)) as log:
        sync = RamSync(ram, log)
        for region in ram.regions:
            log.mark(region.gpa, region.size)
        log.harvest()
        runs = [
            (gpa, length)
            for region in ram.regions
            for gpa in range(region.gpa, region.gpa + region.size, distance)
        ][: SIZE // distance or 1]

        def mark() -> None:
            for run in runs:
                log.mark(*run)

        found = benchmark.pedantic(sync.dirty, setup=mark, rounds=20)
        assert found == runs
        figure.name = request.node.callspec.id
        figure.notes = {"runs": f"{len(runs)}"}
