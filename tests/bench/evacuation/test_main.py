"""`make evacuation`, with the smallest VMs: no figure is asserted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.timeouts import PROGRAM_TIMEOUT

ROOT = Path(__file__).parents[3]
SMALL = (
    *("--strategy", "split", "--evacuated-by", "split", "--net", "1x2,2x4", "--blk", "0,1x1"),
    *("--repeat", "1", "--vms", "2", "--vm-net", "1x2", "--vm-blk", "0", "--parallel", "1,2"),
)


@pytest.mark.slow
@pytest.mark.timeout(4 * PROGRAM_TIMEOUT)
def test_the_tables_and_the_document(tmp_path: Path) -> None:
    """The sweeps' results are kept, so a second start is faster."""
    pytest.importorskip("distributed", reason="distributed is not installed: vhost-emu[cluster]")
    done = subprocess.run(
        [sys.executable, "-m", "bench.evacuation", "--out", str(tmp_path / "out"), *SMALL],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=3 * PROGRAM_TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    whole = json.loads((tmp_path / "out" / "evacuation.json").read_text())
    assert [row["parallel"] for row in whole["compared"]] == [1, 2]
    assert all(row["downtime_ms"] > 0 for row in whole["compared"])
    assert len(whole["scenario"]) == 3
    assert "A host with 1000 VMs, simulated" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--out", "out", "--strategy", "magic"), "unknown strategy 'magic'"),
        (("--out", ""), "Invalid value for '--out': the path is empty"),
    ],
)
def test_an_error_is_one_line(arguments: tuple[str, ...], text: str, tmp_path: Path) -> None:
    """Nothing was started."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.evacuation", *arguments],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PROGRAM_TIMEOUT,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"evacuation: {text}")
    assert list(tmp_path.iterdir()) == []
    assert done.stderr.count("\n") == 1
