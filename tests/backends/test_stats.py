"""The statistics file, from both ends."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from backends import stats
from backends.stats import COUNTERS, StatsError, StatsReader, StatsWriter

if TYPE_CHECKING:
    from pathlib import Path


def test_reader_sees_what_the_writer_counts(tmp_path: Path) -> None:
    path = str(tmp_path / "stats")
    writer = StatsWriter(3, path)
    reader = StatsReader(path)
    assert reader.totals() == dict.fromkeys(COUNTERS, 0)
    writer.device(0)[stats.REQUESTS] += 5
    writer.device(2)[stats.REQUESTS] += 2
    writer.device(2)[stats.RING_STOPS] = (1 << 64) - 1
    assert [row["requests"] for row in reader.per_device()] == [5, 0, 2]
    assert reader.totals()["requests"] == 7
    assert reader.per_device()[2]["ring_stops"] == (1 << 64) - 1
    writer.close()
    assert reader.totals()["requests"] == 7, "the last values stay"
    reader.close()


def test_devices_do_not_share_counters() -> None:
    writer = StatsWriter(2)
    writer.device(0)[len(COUNTERS) - 1] = 9
    assert list(writer.device(1)) == [0] * stats.SLOTS
    writer.close()


@pytest.mark.parametrize("content", [b"", b"x" * 63, b"x" * 4096])
def test_refuses_other_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "stats"
    path.write_bytes(content)
    with pytest.raises(StatsError):
        StatsReader(str(path))


def test_refuses_a_file_that_was_cut(tmp_path: Path) -> None:
    path = tmp_path / "stats"
    StatsWriter(4, str(path)).close()
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(StatsError, match="4 devices"):
        StatsReader(str(path))


def test_a_file_that_is_overwritten_meanwhile_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "stats"
    writer = StatsWriter(2, str(path))
    reader = StatsReader(str(path))
    path.write_bytes(b"x" * 4096)
    with pytest.raises(StatsError, match="is not a statistics file"):
        reader.totals()
    writer.close()
    reader.close()


def test_both_ends_go_on_when_the_file_is_cut_meanwhile(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "stats"
    writer = StatsWriter(2, str(path))
    reader = StatsReader(str(path))
    writer.check()
    os.truncate(path, 0)
    writer.device(1)[stats.REQUESTS] = 1
    assert writer.device(1)[stats.REQUESTS] == 1
    with pytest.raises(StatsError, match="too short"):
        reader.per_device()
    for _ in range(3):
        writer.check()
    assert [record.getMessage() for record in caplog.records] == [
        f"{path} has been made shorter: it is not written any more"
    ]
    writer.close()
    reader.close()
