"""Migrations of one VM, in turn, back and forth between two processes."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Any

import click

from emu.errors import EmuError, MigrationError, Operation
from emu.orchestrator.accounting import RequestAccounting
from emu.orchestrator.disk_digests import STEP_SECONDS, DiskReader, host_digest
from emu.orchestrator.migration_outcome import MigrationOutcome, Role, completed, reason
from emu.orchestrator.network.echo import EchoClient, ProbeClient
from emu.orchestrator.supervisor import Supervisor
from emu.orchestrator.vm_host import SLOW
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
from vhost_user.errors import VhostUserError

if TYPE_CHECKING:
    from emu.config.plan import MigrationPlan
    from emu.orchestrator.network.namespaces import NamespaceNetwork
    from emu.qmp.protocol import JsonObject
    from emu.report.progress import Progress

#: Nanoseconds before and after the blackout in which the network's gap may begin and end.
MARGIN_NS = 50_000_000
#: Seconds to wait for an echo reply after the migration, and between two checks for it.
ECHO_TIMEOUT = 2.0
ECHO_POLL = 0.01


def migrate_all(
    plan: MigrationPlan, progress: Progress
) -> tuple[MigrationReport | None, EmuError | VhostUserError | None]:
    """Start the VM processes and back-ends of a plan, run its migrations, and end them.

    Returns:
        The report (None if no migration was finished), and the error that ended the run early (None
        if there was none).
    """
    series = None
    try:
        with progress, Supervisor(plan.machine, progress) as supervisor:
            series = MigrationSeries(plan, supervisor)
            return series.run(), None
    except (EmuError, VhostUserError) as error:
        report = None if series is None else series.report
        return report if report is not None and report.runs else None, error


class MigrationSeries:
    """Runs a `MigrationPlan` on a supervisor's two sides.

    Attributes:
        report: the migrations that are finished; None until the VM has booted.
    """

    def __init__(self, plan: MigrationPlan, supervisor: Supervisor) -> None:
        self._plan = plan
        self._supervisor = supervisor
        self._progress = supervisor.progress
        self._watcher = supervisor.watcher
        self._source, self._destination = supervisor.sides
        self._accounting = RequestAccounting(supervisor.sides)
        self._streams = 0
        self._echo: EchoClient | None = None
        self.report: MigrationReport | None = None

    def run(self) -> MigrationReport:
        """Start all programs, run all migrations, and return the report.

        Raises:
            EmuError: the run cannot continue; a migration that was rolled back does not raise.
        """
        begin = time.monotonic()
        network = self._open_network()
        try:
            return self._run(begin, network)
        finally:
            if network is not None:
                network.close()

    def _open_network(self) -> NamespaceNetwork | None:
        """The network of namespaces, if it was selected and can be created."""
        reachable = self._source.backends.uplinks and self._plan.machine.spec.answers_network
        if self._plan.network != "netns" or not reachable:
            return None
        from emu.orchestrator.network.namespaces import NamespaceNetwork, NetworkUnavailableError

        try:
            network = NamespaceNetwork.build()
        except NetworkUnavailableError as error:
            click.echo(f"emu: --network netns: {error}; loopback is used", err=True)
            return None
        for side, tap in zip(self._supervisor.sides, network.taps, strict=True):
            side.backends.tap_fd = tap
        return network

    def _run(self, begin: float, network: NamespaceNetwork | None) -> MigrationReport:
        machine = self._plan.machine
        self._supervisor.start_programs()
        self.report = report = MigrationReport(
            machine,
            self._boot(),
            via=self._plan.via,
            strict_downtime=self._plan.strict_downtime,
            not_run=len(self._plan.sequence),
        )
        if machine.disk is not None:
            report.disk_sha256 = host_digest(machine.disk, self._watcher, self._progress)
        uplinks = [
            side.backends.uplinks[0] for side in self._supervisor.sides if side.backends.uplinks
        ]
        if not machine.spec.answers_network:
            uplinks = []
        if network is not None:
            from emu.orchestrator.network.ping import PingClient

            report.network = "netns"
            self._echo = PingClient(network)
        elif uplinks:
            path = str(self._supervisor.directory.path / "echo.sock")
            self._echo = ProbeClient(uplinks, path)
        if self._echo is not None:
            self._echo.start()
        try:
            self._migrate_all(report)
        finally:
            if self._echo is not None:
                self._echo.stop()
            report.seconds = time.monotonic() - begin
        return report

    def _boot(self) -> str:
        """Boot the guest at the first side, while the second prepares for the migration."""
        spec = self._plan.machine.spec
        self._progress.step(f"boot: {size_text(spec)}")
        self._begin_incoming(self._plan.sequence[0][0])
        accel = self._source.create()
        self._source.boot()
        return accel

    def _begin_incoming(self, strategy: str, *, release: bool = False) -> None:
        """Make the destination prepare for a migration with this strategy."""
        handover = strategy in self._plan.handing_over
        self._destination.begin_incoming(self._uri(), handover=handover, release=release)

    def _uri(self) -> str:
        self._streams += 1
        if self._plan.via == "tcp":
            return "tcp:127.0.0.1:0"
        return f"unix:{self._supervisor.directory.stream(self._streams)}"

    def _migrate_all(self, report: MigrationReport) -> None:
        sequence = self._plan.sequence
        for number, (strategy, repeat) in enumerate(sequence, 1):
            route = f"{self._source.name} -> {self._destination.name}"
            self._progress.step(f"migrate {number}/{len(sequence)}, {strategy}, {route}")
            following = sequence[number][0] if number < len(sequence) else None
            result = self._migrate(strategy, repeat, following)
            report.runs.append(result)
            report.not_run -= 1
            self._progress.done(f"{strategy}, {route}: {_summary(result)}")

    def _migrate(self, strategy: str, repeat: int, following: str | None) -> MigrationResult:
        source, destination = self._source, self._destination
        uri = destination.await_incoming()
        # Events of a run that was rolled back do not belong to this one.
        for side in (source, destination):
            side.monitor.events.clear()
        disk = self._plan.machine.disk
        reader = None if disk is None else DiskReader(disk, source)
        parameters = self._plan.parameters.to_json()
        for side in (destination, source):
            side.execute("migrate-set-parameters", {"parameters": parameters})
        arguments = {"uri": uri, "strategy": strategy, "options": dict(self._plan.options)}
        source.execute("migrate", arguments)
        error = self._failure_of(self._outcome(reader).wait())
        if error is None:
            result = self._measure(strategy, repeat)
            self._source, self._destination = destination, source
            if strategy in self._plan.handing_over:
                # The VM has kept its back-ends in its new process.
                source.backends, destination.backends = destination.backends, source.backends
        else:
            result = MigrationResult(strategy, repeat, ROLLED_BACK, error=error)
        chosen = registry.make(strategy, registry.StrategyOptions(**self._plan.options))
        result = dataclasses.replace(result, missed=chosen.missed(error))
        if following is not None:
            self._begin_incoming(following, release=True)
        return self._check(result, reader, last=following is None)

    def _outcome(self, reader: DiskReader | None) -> MigrationOutcome:
        return MigrationOutcome(
            {"source": self._source, "destination": self._destination},
            self._watcher,
            progress=self._progress,
            idle=None if reader is None else reader.advance,
            step=STEP_SECONDS,
        )

    def _failure_of(self, ended: dict[Role, JsonObject]) -> str | None:
        """Why the VM keeps running at the source; None if the migration has completed.

        Raises:
            MigrationError: the VM was lost in the switchover.
        """
        source, destination = ended["source"], ended.get("destination")
        if not completed(source):
            return reason({**(destination or {}), **source})
        if destination is not None and not completed(destination):
            why = destination.get("error-desc", "unknown reason")
            raise MigrationError(Operation.SWITCHOVER, f"the VM is lost at the destination: {why}")
        return None

    def _measure(self, strategy: str, repeat: int) -> MigrationResult:
        """The result of the migration that has just completed, from both sides' timelines."""
        source = self._source.execute("x-timeline")
        destination = self._destination.execute("x-timeline")
        start = int(dict(source["marks"])["pause_start_ns"])
        end = int(dict(destination["marks"])["running_ns"])
        precopy = Precopy(**source["precopy"])
        # Printed afterwards: output during the blackout would take CPU time from it.
        self._progress.detail(
            f"round {precopy.rounds}: {precopy.bytes / (1 << 20):.1f} MiB sent, then switched over"
        )
        self._await_echo(end + MARGIN_NS)
        _request_log, guest_gap = self._destination.request_log()
        left, arrived = _spans(source), _spans(destination)
        spans = left + arrived
        return MigrationResult(
            strategy,
            repeat,
            COMPLETED,
            downtime_ms=(end - start) / 1e6,
            guest_gap_ms=guest_gap,
            heartbeat_age_ms=heartbeat_age_ms(source["marks"]),
            network_gap_ms=None
            if self._echo is None
            else self._echo.max_gap_ms(start - MARGIN_NS, end + MARGIN_NS),
            stop_ms=devices_ms(spans, "src"),
            start_ms=devices_ms(spans, "dst"),
            commits=int(source["commits"]) + int(destination["commits"]),
            requests_in_flight_at_stop=int(source["requests_in_flight_at_stop"]),
            phases=tuple(phase_rows(spans)),
            precopy=precopy,
            timeline=tuple(timeline_rows(left, arrived, start)),
        )

    def _await_echo(self, until_ns: int) -> None:
        """Return after ``until_ns``, once the VM answers echo requests, or after `ECHO_TIMEOUT`.

        A reply after the blackout ends the network's gap; without one the gap would end at the
        margin.
        """
        before = None if self._echo is None else self._echo.counts().answered
        self._watcher.pause((until_ns - time.monotonic_ns()) / 1e9)
        deadline = time.monotonic() + ECHO_TIMEOUT
        while self._echo is not None and time.monotonic() < deadline:
            if self._echo.counts().answered != before:
                return
            self._watcher.pause(ECHO_POLL)

    def _check(
        self, result: MigrationResult, reader: DiskReader | None, *, last: bool
    ) -> MigrationResult:
        """Let the guest read its disk to the end, stop the load, and compare the request log."""
        here = self._source
        digest = None
        if reader is not None:
            digest = reader.finish(here, self._watcher, self._progress)
        self._progress.detail("check the guest's requests")
        try:
            integrity = self._accounting.compare(here)
        except EmuError as error:
            if result.error is None:
                raise
            raise EmuError(f"{result.error}; then {error}") from error
        if not last:
            here.execute("x-resume-load", timeout=SLOW)
        return dataclasses.replace(result, integrity=integrity, disk_sha256=digest)


def _spans(timeline: JsonObject) -> list[Span]:
    rows: list[list[Any]] = timeline["spans"]
    try:
        return [Span.from_json(row) for row in rows]
    except (TypeError, ValueError) as error:
        raise EmuError(f"an invalid timeline: {error}") from None


def _summary(result: MigrationResult) -> str:
    if result.outcome != COMPLETED or result.downtime_ms is None:
        return result.outcome  # the report has the error
    integrity = result.integrity
    return (
        f"downtime {result.downtime_ms:.2f} ms, {result.requests_in_flight_at_stop} requests in "
        f"flight, lost {integrity.lost}, duplicated {integrity.duplicated}, "
        f"corrupted {integrity.corrupted}"
    )
