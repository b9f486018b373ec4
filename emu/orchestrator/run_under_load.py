"""A VM under load on one side, watched: what `emu run` does."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

from emu.config.device_kinds import KINDS
from emu.errors import SignalError
from emu.orchestrator.accounting import RequestAccounting
from emu.orchestrator.migrate_in import IncomingMigration
from emu.report.load_results import Counts, LoadReport, Sample

if TYPE_CHECKING:
    from typing import Protocol

    from emu.migration.endpoint import MigrationEndpoint
    from emu.orchestrator.supervisor import Supervisor

    class Viewer(Protocol):
        """Shows samples as they come."""

        def show(self, sample: Sample) -> None:
            """The newest one."""


INTERVAL = 1.0


class LoadRun:
    """Boots a VM, watches it until the user or the clock ends it, and checks its request log.

    Args:
        supervisor: of one side.
        viewer: shows samples.
        seconds: how long to watch; until Ctrl-C when None.
        endpoint: do not boot the VM, but wait for it there.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        viewer: Viewer,
        seconds: float | None,
        endpoint: MigrationEndpoint | None = None,
    ) -> None:
        self._supervisor = supervisor
        self._endpoint = endpoint
        self._viewer = viewer
        self._length = seconds
        (self._side,) = supervisor.sides
        self._first = 0

    def run(self) -> LoadReport:
        """The whole run.

        Raises:
            EmuError: it cannot go on.
        """
        supervisor = self._supervisor
        spec = supervisor.plan.spec
        accounting = RequestAccounting([self._side])
        supervisor.start_programs()
        what = f"{spec.vcpus} vCPUs, {len(spec.devices)} devices, {spec.rings} rings"
        if self._endpoint is None:
            supervisor.progress.step(f"boot: {what}")
            report = LoadReport(supervisor.plan, self._side.create())
            self._side.boot()
        else:
            report = LoadReport(supervisor.plan, "")
            accounting = self._await_vm(self._endpoint, what, report)
        supervisor.progress.step("run")
        self._watch(report)
        supervisor.progress.step("check the guest's request log, the images and the counters")
        # At rest and before the check reads the disks back, so that both count the same requests.
        self._side.quiesce()
        _now, report.totals = self._counts()
        report.integrity = accounting.compare(self._side)
        return report

    def _await_vm(
        self, endpoint: MigrationEndpoint, what: str, report: LoadReport
    ) -> RequestAccounting:
        """Build the VM, wait until it has arrived, and continue the source's request accounting."""
        incoming = IncomingMigration(self._supervisor, endpoint)
        incoming.await_source(what)
        report.accel = self._side.accel
        report.arrival = incoming.await_vm()
        self._supervisor.progress.done(str(report.arrival))
        return RequestAccounting([self._side], report.arrival.served)

    def _watch(self, report: LoadReport) -> None:
        """Sample until the time is over; Ctrl-C is the ordinary way to end it."""
        before, counts = self._counts()
        begin = before
        try:
            while (wait := self._until_next(begin)) > 0:
                self._supervisor.watcher.pause(wait)
                # The source's run has the images of a VM that has arrived until it ends.
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
        # A rest too short for rates of its own goes with the last interval.
        return left if left < 1.5 * INTERVAL else INTERVAL

    def _counts(self) -> tuple[int, Counts]:
        """When it was, and the guest's and the back-ends' counters of each class."""
        answer = self._side.execute("x-stats")
        served = self._side.backends.totals()
        counts = {
            name: {
                key: int({**served.get(name, {}), **guest}.get(key, 0))
                for key in KINDS[name].counters
            }
            for name, guest in answer["classes"].items()
            if name in served
        }
        return int(answer["now_ns"]), counts


def _rates(before: Counts, after: Counts, seconds: float) -> dict[str, dict[str, float]]:
    return {
        name: {key: (value - before[name][key]) / seconds for key, value in counts.items()}
        for name, counts in after.items()
    }
