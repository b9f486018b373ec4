"""The source of a migration to another run: `emu migrate --to`."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Any

from emu.errors import MigrationError, Operation
from emu.migration.endpoint import probe
from emu.orchestrator import disk_identity
from emu.orchestrator.accounting import RequestAccounting
from emu.orchestrator.migration_outcome import MigrationOutcome, completed, reason
from emu.report.results import (
    COMPLETED,
    ROLLED_BACK,
    MigrationReport,
    MigrationResult,
    Precopy,
    devices_ms,
    heartbeat_age_ms,
    phase_rows,
)
from emu.report.tables import size_text
from emu.report.timeline import timeline_rows
from emu.strategies import registry
from emu.strategies.timeline import Span

if TYPE_CHECKING:
    from emu.config.plan import MigrationPlan
    from emu.migration.endpoint import MigrationEndpoint
    from emu.orchestrator.supervisor import Supervisor
    from emu.qmp.protocol import JsonObject

#: Seconds of load before the migration.
WARM_UP = 0.5


class OutgoingMigration:
    """Runs a `MigrationPlan` of one migration on a supervisor's one side."""

    def __init__(
        self, plan: MigrationPlan, supervisor: Supervisor, endpoint: MigrationEndpoint
    ) -> None:
        self._plan = plan
        self._supervisor = supervisor
        self._endpoint = endpoint
        self._progress = supervisor.progress
        (self._side,) = supervisor.sides
        self._accounting = RequestAccounting(supervisor.sides)

    def run(self) -> MigrationReport:
        """Boot the VM, migrate it, and return the report.

        Raises:
            EmuError: no process listens at the destination, or the run cannot continue. A migration
                that is rolled back does not raise.
        """
        begin = time.monotonic()
        machine = self._plan.machine
        # Before any process is started: booting a large VM takes long.
        probe(self._endpoint.uri, timeout=self._plan.parameters.timeout)
        self._supervisor.start_programs()
        disk = disk_identity.file_identity(machine, self._supervisor.watcher, self._progress)
        spec = machine.spec
        self._progress.step(f"boot: {size_text(spec)}")
        report = MigrationReport(
            machine,
            self._side.create(),
            via=self._endpoint.transport,
            strict_downtime=self._plan.strict_downtime,
        )
        self._side.boot()
        self._supervisor.watcher.pause(WARM_UP)
        with disk_identity.marked(machine.images) as mark:
            error = self._migrate({"mark": mark, "disk": disk})
        run = self._measure() if error is None else self._rolled_back(error)
        chosen = registry.make(run.strategy, registry.StrategyOptions(**self._plan.options))
        report.runs.append(dataclasses.replace(run, missed=chosen.missed(error)))
        report.seconds = time.monotonic() - begin
        return report

    def _migrate(self, disks: JsonObject) -> str | None:
        """Why the VM runs on here; None if the migration has completed."""
        side, endpoint = self._side, self._endpoint
        self._progress.step(f"migrate, {self._plan.strategies[0]}, to {endpoint.uri}")
        parameters = self._plan.parameters.to_json()
        side.execute("migrate-set-parameters", {"parameters": parameters})
        arguments = {
            "uri": endpoint.uri,
            "strategy": self._plan.strategies[0],
            "options": dict(self._plan.options),
            "tls": endpoint.security.tls,
            "between": {
                "disks": disks,
                "stats": side.disk_stats,
            },
        }
        side.execute("migrate", arguments)
        watcher = self._supervisor.watcher
        outcome = MigrationOutcome({"source": side}, watcher, progress=self._progress).wait()
        return None if completed(outcome["source"]) else reason(outcome["source"])

    def _rolled_back(self, error: str) -> MigrationResult:
        """The result of a failed migration: check that the VM, which runs on, lost no request."""
        self._progress.step("the VM runs on here: check its request log")
        integrity = self._accounting.compare(self._side)
        strategy = self._plan.strategies[0]
        return MigrationResult(strategy, 1, ROLLED_BACK, error=error, integrity=integrity)

    def _measure(self) -> MigrationResult:
        """The result, from this side's timeline and the destination's completion report."""
        here = self._side.execute("x-timeline")
        there = dict(here["destination"])
        error = there.get("downtime_error_ns")
        result = MigrationResult(
            self._plan.strategies[0],
            1,
            COMPLETED,
            precopy=Precopy(**here["precopy"]),
            requests_in_flight_at_stop=int(here["requests_in_flight_at_stop"]),
            checked_elsewhere=True,
            **_figures(here, there) if there else {},
            downtime_error_ms=None if error is None else int(error) / 1e6,
        )
        missing = "" if there else ", but its completion report is missing"
        self._progress.done(f"the VM runs at {self._endpoint.uri}{missing}")
        return result


def _figures(here: JsonObject, there: JsonObject) -> dict[str, Any]:
    try:
        left = [Span.from_json(row) for row in here["spans"]]
        arrived = [Span.from_json(row) for row in there["spans"]]
        spans = left + arrived
        start, offset = int(here["marks"]["pause_start_ns"]), int(there["offset_ns"])
        return {
            "downtime_ms": int(there["downtime_ns"]) / 1e6,
            "guest_gap_ms": int(there["guest_gap_ns"]) / 1e6,
            "heartbeat_age_ms": heartbeat_age_ms(here["marks"]),
            "stop_ms": devices_ms(spans, "src"),
            "start_ms": devices_ms(spans, "dst"),
            "commits": int(here["commits"]) + int(there["commits"]),
            "phases": tuple(phase_rows(spans)),
            "timeline": tuple(timeline_rows(left, arrived, start, offset)),
        }
    except (KeyError, TypeError, ValueError):
        raise MigrationError(Operation.COMPLETION, "the destination's report is invalid") from None
