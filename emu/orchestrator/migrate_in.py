"""The destination of a migration from another run: `emu run --incoming`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.errors import MigrationError, Operation
from emu.migration.endpoint import DEFER
from emu.orchestrator import disk_identity
from emu.orchestrator.migration_outcome import MigrationOutcome, completed, reason
from emu.orchestrator.vm_host import SLOW
from emu.report.load_results import IncomingReport

if TYPE_CHECKING:
    from pathlib import Path

    from emu.migration.endpoint import MigrationEndpoint
    from emu.orchestrator.migration_outcome import Role
    from emu.orchestrator.supervisor import Supervisor
    from emu.orchestrator.vm_host import VmHost
    from emu.qmp.protocol import JsonObject


class IncomingMigration:
    """Prepares the one side of a supervisor for an incoming migration, and waits for its end."""

    def __init__(self, supervisor: Supervisor, endpoint: MigrationEndpoint) -> None:
        self._supervisor = supervisor
        self._endpoint = endpoint
        (self._side,) = supervisor.sides

    def listen(self, description: str, monitor: Path | None = None) -> None:
        """Build the VM and listen for the source, or wait for QMP's migrate-incoming.

        Args:
            description: of the VM, for the progress line.
            monitor: socket of the users' monitor, or None.
        """
        supervisor, plan = self._supervisor, self._supervisor.plan
        disk = disk_identity.file_identity(plan, supervisor.watcher, supervisor.progress)
        supervisor.progress.step(f"prepare: {description}")
        images = None if plan.images is None else str(plan.images)
        disks: JsonObject = {"images": images, "disk": disk}
        if self._endpoint.uri == DEFER:
            self._side.accel = self._side.create()
            self._side.execute("x-prepare", timeout=SLOW)
            if monitor is not None:
                self._side.serve_users(monitor, incoming=disks, security=self._endpoint.security)
            supervisor.progress.done(f"waiting for migrate-incoming at {monitor}")
            return
        self._side.begin_incoming(self._endpoint.uri, tls=self._endpoint.security.tls, disks=disks)
        uri = self._side.await_incoming()
        if monitor is not None:
            self._side.serve_users(monitor, incoming=disks, security=self._endpoint.security)
        supervisor.progress.done(f"waiting for a VM at {uri}")

    def await_vm(self) -> IncomingReport:
        """Return when the VM runs here.

        Raises:
            MigrationError: the migration failed; the VM runs on at the source.
        """
        sides: dict[Role, VmHost] = {"destination": self._side}
        outcome = MigrationOutcome(sides, self._supervisor.watcher, may_be_silent=True).wait()
        if not completed(outcome["destination"]):
            why = reason(outcome["destination"])
            raise MigrationError(Operation.INCOMING, f"the migration failed: {why}")
        timeline = self._side.execute("x-timeline")
        return IncomingReport.from_json(timeline["source"])
