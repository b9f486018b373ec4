"""The figures of the JSON documents as OpenMetrics text, for a monitoring system.

Times are in seconds, as OpenMetrics has them. A figure that was not measured has no sample. All
metrics are gauges: node_exporter's textfile collector reads the older text format of Prometheus, of
which this text is a part, and refuses a file with other types of OpenMetrics, such as info.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.openmetrics.exposition import generate_latest
from prometheus_client.registry import Collector

from emu.report.results import COMPLETED, shape_of_groups, totals

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from prometheus_client.core import Metric

    from emu.qmp.protocol import JsonObject

_PREFIX = "vhost_emu"
_RUN_LABELS = ("devices", "rings", "shape", "accel", "strategy", "repeat")
#: Times of a run: the member of the document, the metric, and its description.
_TIMES = (
    ("downtime_ms", "downtime", "Accounted downtime of a migration."),
    ("guest_gap_ms", "guest_gap", "Downtime that the guest saw."),
    ("network_gap_ms", "network_gap", "Downtime that the client outside of the VM saw."),
    ("stop_ms", "stop", "Time in which the devices stop at the source."),
    ("start_ms", "start", "Time in which the devices start at the destination."),
)
_INFO = ("accel", "costs", "load", "control", "stop_policy", "via", "network")


class _Families(Collector):
    """Gives a registry metrics that have been made already."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterable[Metric]:
        return self._families


def migrations(documents: Sequence[JsonObject]) -> str:
    """The figures of documents of `emu migrate`, one for each VM."""
    return _text(_migrations(documents))


def conformance(document: JsonObject) -> str:
    """The figures of a document of `emu conform`."""
    return _text(_conformance(document))


def _text(families: Iterable[Metric]) -> str:
    registry = CollectorRegistry()
    registry.register(_Families(families))
    text: bytes = generate_latest(registry)
    return text.decode()


def _gauge(name: str, description: str, labels: Sequence[str], unit: str = "") -> GaugeMetricFamily:
    return GaugeMetricFamily(f"{_PREFIX}_{name}", description, labels=labels, unit=unit)


def _migrations(documents: Sequence[JsonObject]) -> Iterator[Metric]:
    for head in documents[:1]:
        facts = {name: str(head[name]) for name in _INFO if name in head}
        facts |= {"version": str(head["host"]["vhost_emu"]), "kernel": str(head["host"]["kernel"])}
        info = _gauge("info", "What was measured, and where.", list(facts))
        info.add_metric(list(facts.values()), 1)
        yield info
    completed = _gauge("migration_completed", "1 if the migration completed, or 0.", _RUN_LABELS)
    times = [
        (member, _gauge(f"migration_{name}", text, _RUN_LABELS, "seconds"))
        for member, name, text in _TIMES
    ]
    phases = _gauge(
        "migration_phase",
        "Wall time of a phase in the blackout, for a class of devices.",
        (*_RUN_LABELS, "phase", "class"),
        "seconds",
    )
    counts = _gauge(
        "migration_integrity",
        "Requests and packets of the guest since the check before.",
        (*_RUN_LABELS, "outcome"),
    )
    for labels, run in _runs(documents):
        completed.add_metric(labels, float(run["outcome"] == COMPLETED))
        for member, family in times:
            if run[member] is not None:
                family.add_metric(labels, run[member] / 1e3)
        for row in run["phases"]:
            if row["in_blackout"]:
                phases.add_metric([*labels, row["phase"], row["class"]], row["wall_ms"] / 1e3)
        for name, count in (run["integrity"] or {}).items():
            counts.add_metric([*labels, name], count)
    yield from (completed, *(family for _, family in times), phases, counts)


def _runs(documents: Iterable[JsonObject]) -> Iterator[tuple[list[str], JsonObject]]:
    """Each run with the values of `_RUN_LABELS`."""
    for whole in documents:
        groups = whole["vm"]["devices"]
        vm = [*map(str, totals(groups)), shape_of_groups(groups), whole["accel"]]
        for run in whole["runs"]:
            yield [*vm, run["strategy"], str(run["repeat"])], run


def _conformance(document: JsonObject) -> Iterator[Metric]:
    role = document["role"]
    cases = _gauge(
        "conformance_cases", "Cases by verdict.", ("role", "area", "severity", "verdict")
    )
    rows = Counter((case["area"], case["severity"], case["verdict"]) for case in document["cases"])
    for labels, count in rows.items():
        cases.add_metric([role, *labels], count)
    yield cases
    missing = _gauge("conformance_cases_not_run", "Cases that the run has left out.", ("role",))
    missing.add_metric([role], document["not_run"])
    yield missing
    if "known" in document:
        known = _gauge(
            "conformance_failures",
            "Failures that are in the baseline, that are new, and that are mended.",
            ("role", "state"),
        )
        for state, ids in document["known"].items():
            known.add_metric([role, "known" if state == "failed" else state], len(ids))
        yield known
