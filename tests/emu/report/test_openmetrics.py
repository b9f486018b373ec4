"""OpenMetrics text, read by the parser of prometheus_client."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

from typing import Any

from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.parser import text_string_to_metric_families as older

from emu.report import openmetrics
from tests.emu.report.comparable import conformance, migration
from vhost_user_conformance.model.verdict import Verdict

Sample = tuple[dict[str, str], float]


def parsed(text: str) -> dict[str, list[Sample]]:
    return {
        sample.name: [(dict(each.labels), each.value) for each in family.samples]
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_the_figures_of_migrations_are_in_seconds() -> None:
    documents = [migration({"split": (10.0, None)}), migration({'pre\n"wired\\': (5.0,)}, disks=8)]
    found = parsed(openmetrics.migrations(documents))
    one = {"devices": "2", "rings": "4", "shape": "blk 2x2", "accel": "soft", "repeat": "1"}
    other = {**one, "devices": "8", "rings": "16", "shape": "blk 8x2"}
    one["strategy"], other["strategy"] = "split", 'pre\n"wired\\'
    assert found["vhost_emu_migration_downtime_seconds"] == [(one, 0.01), (other, 0.005)]
    assert found["vhost_emu_migration_stop_seconds"] == [(one, 0.005), (other, 0.0025)]
    assert "vhost_emu_migration_guest_gap_seconds" not in found
    assert [value for _, value in found["vhost_emu_migration_completed"]] == [1, 0, 1]
    phase = {"phase": "src.get_vring_base", "class": "blk"}
    assert found["vhost_emu_migration_phase_seconds"][0] == (one | phase, 0.01)
    assert (one | {"outcome": "lost"}, 0.0) in found["vhost_emu_migration_integrity"]
    ((labels, value),) = found["vhost_emu_info"]
    assert (labels["accel"], value) == ("soft", 1)


def test_the_older_text_format_has_all_of_it() -> None:
    """As node_exporter reads it: only types that this format has."""
    text = openmetrics.migrations([migration({"split": (10.0,)})])
    types = [line.split()[3] for line in text.splitlines() if line.startswith("# TYPE ")]
    assert set(types) == {"gauge"}
    samples = [each for family in older(text) for each in family.samples]
    assert "vhost_emu_info" in {each.name for each in samples}
    assert len(samples) == sum(map(len, parsed(text).values()))


def test_without_an_integrity_there_are_no_counters() -> None:
    """After a migration to another run, which has them."""
    document: Any = migration({"split": (10.0,)})
    document["runs"][0]["integrity"] = None
    assert "vhost_emu_migration_integrity" not in parsed(openmetrics.migrations([document]))


def test_verdicts_are_counted() -> None:
    document = conformance(Verdict.PASS, Verdict.FAIL, Verdict.PASS)
    found = parsed(openmetrics.conformance(document))
    cases = found["vhost_emu_conformance_cases"]
    assert sum(value for labels, value in cases if labels["verdict"] == "PASS") == 2
    assert {labels["role"] for labels, _ in cases} == {"back-end"}
    assert found["vhost_emu_conformance_cases_not_run"] == [({"role": "back-end"}, 0)]
    assert "vhost_emu_conformance_failures" not in found
    document["known"] = {"failed": ["a"], "new": [], "mended": ["b", "c"]}
    found = parsed(openmetrics.conformance(document))
    states = {labels["state"]: n for labels, n in found["vhost_emu_conformance_failures"]}
    assert states == {"known": 1, "new": 0, "mended": 2}
