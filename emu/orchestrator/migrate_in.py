"""A VM that comes from another run: `emu run --incoming`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.errors import HangUpError, MigrationError
from emu.orchestrator import shared_disks
from emu.report.load_results import Arrived

if TYPE_CHECKING:
    from emu.migration.endpoint import MigrationEndpoint
    from emu.orchestrator.supervisor import Supervisor
    from emu.qmp.protocol import JsonObject

#: Seconds between two looks at whether the user wants to end the wait.
_LOOK = 3600.0


class IncomingMigration:
    """Makes the one side of a supervisor ready for a VM, and waits for it."""

    def __init__(self, supervisor: Supervisor, endpoint: MigrationEndpoint) -> None:
        self._supervisor = supervisor
        self._endpoint = endpoint
        (self._side,) = supervisor.sides

    def await_source(self, what: str) -> None:
        """Build the VM and listen."""
        supervisor, plan = self._supervisor, self._supervisor.plan
        if plan.disk is not None:
            supervisor.progress.step(f"read {plan.disk.path} on the host")
        disk = shared_disks.of_file(plan, supervisor.watcher)
        supervisor.progress.step(f"make ready: {what}")
        images = None if plan.images is None else str(plan.images)
        disks: JsonObject = {"images": images, "disk": disk}
        self._side.begin_incoming(self._endpoint.uri, tls=self._endpoint.tls, disks=disks)
        uri = self._side.await_incoming()
        supervisor.progress.done(f"waiting for a VM at {uri}")

    def await_vm(self) -> Arrived:
        """Return when the VM runs here.

        Raises:
            MigrationError: it does not; it runs on where it was.
        """
        while (outcome := self._outcome()) is None:
            self._supervisor.watcher.wait([self._side.monitor.fileno()], _LOOK)
            try:
                self._side.monitor.receive()
            except HangUpError:
                self._side.execute("query-status")  # raises what became of the process
        if outcome["status"] != "completed":
            reason = outcome.get("error-desc", "the source says no more")
            raise MigrationError("incoming", f"no VM has come: {reason}")
        timeline = self._side.execute("x-timeline")
        return Arrived.told(timeline["source"])

    def _outcome(self) -> JsonObject | None:
        events = self._side.monitor.events
        while events:
            event = events.popleft()
            if event.name != "MIGRATION":
                continue
            if event.data.get("status") in ("completed", "failed", "cancelled"):
                return event.data
        return None
