"""Results that are kept: a file for each point, whole or not there."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from emu.errors import EmuError, OptionError
from emu.sweep.point import PointResult
from emu.sweep.results import SETTINGS, ResultsDirectory, settings_of
from tests.emu.sweep.plans import finished, planned
from tests.timeouts import PROGRAM_TIMEOUT

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("pyarrow", reason="pyarrow is not installed: vhost-emu[cluster]")


def test_a_result_comes_back_as_it_was(tmp_path: Path) -> None:
    plans = planned(1, 2, repeat=3)
    settings = settings_of(next(iter(plans.values())))
    kept = {point: finished(plan, f"failure of {point.key}") for point, plan in plans.items()}
    with ResultsDirectory(tmp_path / "new", settings) as results:
        assert [results.load(point) for point in plans] == [None, None]
        for point, result in kept.items():
            results.save(point, result)
    with ResultsDirectory(tmp_path / "new", settings) as results:
        assert {point: results.load(point) for point in plans} == kept


def test_the_directory_is_one_table(tmp_path: Path) -> None:
    """A row for each migration; the run's JSON has all of it."""
    from pyarrow.parquet import read_table

    plans = planned(1, 3, repeat=2)
    settings = settings_of(next(iter(plans.values())))
    with ResultsDirectory(tmp_path / "new", settings) as results:
        for point, plan in plans.items():
            results.save(point, finished(plan))
    rows = read_table(tmp_path / "new").to_pylist()
    assert [(row["point"], row["blk_devices"], row["repeat"]) for row in rows] == [
        ("blk-1x1_soft", 1, 1),
        ("blk-1x1_soft", 1, 2),
        ("blk-3x1_soft", 3, 1),
        ("blk-3x1_soft", 3, 2),
    ]
    row = rows[0]
    assert (row["downtime_ms"], row["net_devices"], row["net_rings"]) == (2.0, 0, 0)
    assert row["guest_gap_ms"] is None
    assert row["host_cpus"] >= 1
    assert json.loads(row["run"])["strategy"] == row["strategy"] == "split"


def test_results_of_other_settings_are_refused(tmp_path: Path) -> None:
    (plan,) = planned(1).values()
    (other,) = planned(1, repeat=2, load="none").values()
    ResultsDirectory(tmp_path / "new", settings_of(plan)).close()
    with pytest.raises(OptionError, match="of other settings: repeat is 1 there, and 2 here"):
        ResultsDirectory(tmp_path / "new", settings_of(other))


def test_another_shape_is_no_other_setting() -> None:
    """A sweep may be continued with more points."""
    one, other = planned(1, 2).values()
    assert settings_of(one) == settings_of(other)


def test_a_directory_of_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(EmuError, match="other files than results"):
        ResultsDirectory(tmp_path, {})
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EmuError, match="Not a directory"):
        ResultsDirectory(tmp_path / "file", {})
    with pytest.raises(EmuError, match="No such file"):
        ResultsDirectory(tmp_path / "none" / "new", {})


def test_two_sweeps_do_not_share_a_directory(tmp_path: Path) -> None:
    first = ResultsDirectory(tmp_path / "new", {})
    with pytest.raises(EmuError, match="another sweep uses it"):
        ResultsDirectory(tmp_path / "new", {})
    first.close()
    ResultsDirectory(tmp_path / "new", {}).close()


@pytest.mark.parametrize("contents", [b"", b"PAR1", b"\0" * 1000])
def test_a_file_that_is_no_result_is_named(contents: bytes, tmp_path: Path) -> None:
    ((point, plan),) = planned(1).items()
    with ResultsDirectory(tmp_path / "new", settings_of(plan)) as results:
        file = tmp_path / "new" / f"{point.key}.parquet"
        file.write_bytes(contents)
        with pytest.raises(EmuError, match="is not a point's result, remove it"):
            results.load(point)


def test_a_parquet_file_of_another_program_is_named(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow.parquet import write_table

    ((point, plan),) = planned(1).items()
    with ResultsDirectory(tmp_path / "new", settings_of(plan)) as results:
        file = tmp_path / "new" / f"{point.key}.parquet"
        for table in (pa.table({"run": ["{}"]}), pa.table({"other": [1]})):
            write_table(table, file)
            with pytest.raises(EmuError, match="is not a point's result"):
                results.load(point)


def test_settings_that_are_no_settings_are_named(tmp_path: Path) -> None:
    ResultsDirectory(tmp_path / "new", {"schema": 1}).close()
    (tmp_path / "new" / SETTINGS).write_text("[]")
    with pytest.raises(EmuError, match=f"{SETTINGS}: the value is not an object"):
        ResultsDirectory(tmp_path / "new", {"schema": 1})


#: Saves a result, and is killed when the new file has been written and before it has its name.
KILLED = """
import os, signal, sys
from pathlib import Path
from emu.sweep.results import ResultsDirectory, settings_of
from tests.emu.sweep.plans import finished, planned
((point, plan),) = planned(1).items()
results = ResultsDirectory(Path(sys.argv[1]), settings_of(plan))
Path.rename = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
results.save(point, finished(plan))
"""


def test_a_kill_while_a_result_is_written_leaves_nothing_of_it(tmp_path: Path) -> None:
    ((point, plan),) = planned(1).items()
    folder = tmp_path / "new"
    ResultsDirectory(folder, settings_of(plan)).close()
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, folder], timeout=PROGRAM_TIMEOUT, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    assert len(list(folder.glob(".*.part"))) == 1
    with ResultsDirectory(folder, settings_of(plan)) as results:
        assert results.load(point) is None
        assert [path.name for path in folder.iterdir()] == [SETTINGS]
        results.save(point, finished(plan))
        assert results.load(point) == finished(plan)


def test_a_point_without_completed_migrations_is_kept(tmp_path: Path) -> None:
    """They were rolled back: that is a result."""
    ((point, plan),) = planned(1).items()
    result = finished(plan, "rolled back")
    assert result.document is not None
    for run in result.document["runs"]:
        run.update({"outcome": "rolled-back", "error": "no", "integrity": None})
        run.update(dict.fromkeys(("downtime_ms", "stop_ms", "start_ms")))
    with ResultsDirectory(tmp_path / "new", settings_of(plan)) as results:
        results.save(point, result)
        assert results.load(point) == PointResult(result.document, "rolled back", complete=True)
