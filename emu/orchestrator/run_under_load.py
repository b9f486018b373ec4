"""A VM under load on one side, and samples of its counters: `emu run`."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

from emu.config.device_kinds import KINDS
from emu.errors import MigrationError, Operation, SignalError
from emu.migration.endpoint import StreamSecurity
from emu.orchestrator import disk_identity
from emu.orchestrator.accounting import RequestAccounting
from emu.orchestrator.migrate_in import IncomingMigration
from emu.orchestrator.migration_outcome import ENDED
from emu.orchestrator.vm_host import SLOW
from emu.report.load_results import Counts, LoadReport, Sample
from emu.report.tables import size_text

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Protocol

    from emu.migration.endpoint import MigrationEndpoint
    from emu.orchestrator.supervisor import Supervisor

    class Viewer(Protocol):
        """Shows samples during the run."""

        def show(self, sample: Sample) -> None:
            """Show a new sample."""


#: Seconds between two samples.
INTERVAL = 1.0


class LoadRun:
    """Boots a VM, samples its counters until the end of the run, and checks its request log.

    Args:
        supervisor: of one side.
        viewer: shows samples.
        seconds: length of the run; until Ctrl-C if None.
        endpoint: wait for a migration there instead of booting the VM.
        monitor: socket of the users' monitor, or None.
        security: of migrations that users start, without an endpoint.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        viewer: Viewer,
        seconds: float | None,
        endpoint: MigrationEndpoint | None = None,
        monitor: Path | None = None,
        security: StreamSecurity = StreamSecurity(),  # noqa: B008
    ) -> None:
        self._supervisor = supervisor
        self._endpoint = endpoint
        self._viewer = viewer
        self._length = seconds
        (self._side,) = supervisor.sides
        self._monitor = monitor
        self._security = security
        # Of the users' monitor: ``quit``, and a migration to another run.
        self._quit = self._migrating = self._departed = False

    def run(self) -> LoadReport:
        """Run, and return the report.

        Raises:
            EmuError: the run cannot continue.
        """
        images = self._supervisor.plan.images
        with disk_identity.marked(images if self._monitor is not None else None) as mark:
            return self._run(mark)

    def _run(self, mark: str | None) -> LoadReport:
        supervisor = self._supervisor
        spec = supervisor.plan.spec
        accounting = RequestAccounting([self._side])
        supervisor.start_programs()
        description = size_text(spec)
        if self._endpoint is None:
            supervisor.progress.step(f"boot: {description}")
            report = LoadReport(supervisor.plan, self._side.create())
            self._serve_users(mark)
            self._side.boot()
        else:
            report = LoadReport(supervisor.plan, "")
            accounting = self._await_vm(self._endpoint, description, report)
        supervisor.progress.step("run")
        self._sample(report)
        self._end_migration()
        if self._departed:
            report.departed = True
            supervisor.progress.step("the VM runs at the destination, which checks its request log")
            _now, report.totals = self._counts()
            return report
        if self._monitor is not None:
            self._side.execute("cont")  # a user may have stopped the VM
        supervisor.progress.step("check the guest's requests")
        # Without load, and before the check reads the disks back: guest and back-ends then have
        # counted the same requests.
        self._side.quiesce()
        _now, report.totals = self._counts()
        report.integrity = accounting.compare(self._side)
        return report

    def _serve_users(self, mark: str | None) -> None:
        """Serve the users' monitor, if there is one: the VM may migrate to another run."""
        if self._monitor is None:
            return
        supervisor = self._supervisor
        disk = disk_identity.file_identity(supervisor.plan, supervisor.watcher, supervisor.progress)
        disks = {"mark": mark, "disk": disk}
        self._side.serve_users(self._monitor, disks=disks, security=self._security)

    def _pause(self, seconds: float) -> None:
        """Wait, at most until a user has sent ``quit``."""
        end = time.monotonic() + seconds
        fds = (self._side.monitor.fileno(),)
        while not self._quit and (left := end - time.monotonic()) > 0:
            self._supervisor.watcher.wait(fds, left)
            self._take_events()

    def _take_events(self) -> None:
        for event in self._side.take_events():
            if event.name == "SHUTDOWN":
                self._quit = True
            elif event.name == "MIGRATION":
                status = event.data["status"]
                self._migrating = status not in ENDED
                self._departed = status == "completed"

    def _end_migration(self) -> None:
        """Cancel the migration that a user has started, if it still runs, and await its end.

        Raises:
            MigrationError: it does not end.
        """
        self._take_events()
        if self._migrating:
            self._side.execute("migrate_cancel")
        end = time.monotonic() + SLOW
        self._take_events()
        while self._migrating:
            if not self._supervisor.watcher.wait(
                (self._side.monitor.fileno(),), end - time.monotonic()
            ):
                raise MigrationError(Operation.WAIT, f"not cancelled within {SLOW:g} s")
            self._take_events()

    def _await_vm(
        self, endpoint: MigrationEndpoint, description: str, report: LoadReport
    ) -> RequestAccounting:
        """Build the VM, wait for the migration, and continue the source's request accounting."""
        incoming = IncomingMigration(self._supervisor, endpoint)
        incoming.listen(description, self._monitor)
        report.accel = self._side.accel
        report.arrival = incoming.await_vm()
        self._supervisor.progress.done(str(report.arrival))
        return RequestAccounting([self._side], report.arrival.served)

    def _sample(self, report: LoadReport) -> None:
        """Sample the counters until the end of the run, or Ctrl-C."""
        begin = time.monotonic_ns()
        try:
            before, counts = self._counts()
            begin = before
            while not self._quit and (wait := self._until_next(begin)) > 0:
                self._pause(wait)
                # After a migration the source's run holds the lock of the images until it ends.
                self._supervisor.directory.own_images()
                now, new = self._counts()
                rates = _rates(counts, new, (now - before) / 1e9)
                sample = Sample((now - begin) / 1e9, new, rates)
                report.samples.append(sample)
                self._viewer.show(sample)
                before, counts = now, new
        except SignalError as end:
            if end.signum != signal.SIGINT:
                raise
            self._supervisor.watcher.rearm()
        report.seconds = (time.monotonic_ns() - begin) / 1e9

    def _until_next(self, begin: int) -> float:
        if self._length is None:
            return INTERVAL
        left = self._length - (time.monotonic_ns() - begin) / 1e9
        # A remainder too short for rates of its own is part of the last interval.
        return left if left < 1.5 * INTERVAL else INTERVAL

    def _counts(self) -> tuple[int, Counts]:
        """The time, and the guest's and the back-ends' counters of each class."""
        answer = self._side.execute("x-stats")
        served = self._side.backends.totals()
        plan = self._supervisor.plan
        present = {group.device_class for group in plan.spec.groups}
        counts = {}
        for name, guest in answer["classes"].items():
            if name not in present:
                continue
            # Only this project's back-ends have counters.
            known = guest if plan.others_serve(name) else {**served.get(name, {}), **guest}
            keys = [key for key in KINDS[name].counters if key in known or name in served]
            counts[name] = {key: int(known.get(key, 0)) for key in keys}
        return int(answer["now_ns"]), counts


def _rates(before: Counts, after: Counts, seconds: float) -> dict[str, dict[str, float]]:
    return {
        # The guest counts from 0 again after a system reset.
        name: {key: max(0, value - before[name][key]) / seconds for key, value in counts.items()}
        for name, counts in after.items()
    }
