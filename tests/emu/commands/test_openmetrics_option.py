"""``--openmetrics``, with real migrations; tests/emu/test_output_files.py has its files."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from tests.emu.test_cli import SMALL, emu

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.slow
def test_the_figures_are_those_of_the_document(tmp_path: Path) -> None:
    """The downtime and each phase in the blackout."""
    metrics, document = tmp_path / "m.prom", tmp_path / "out.json"
    done = emu(
        "migrate", *SMALL, "-s", "split", "--json", str(document), "--openmetrics", str(metrics)
    )
    assert done.returncode == 0, done.stderr
    (run,) = json.loads(document.read_text())["runs"]
    families = {
        family.name: family for family in text_string_to_metric_families(metrics.read_text())
    }
    (sample,) = families["vhost_emu_migration_downtime_seconds"].samples
    assert sample.value == run["downtime_ms"] / 1e3
    phases = families["vhost_emu_migration_phase_seconds"].samples
    assert len(phases) == sum(row["in_blackout"] for row in run["phases"])
