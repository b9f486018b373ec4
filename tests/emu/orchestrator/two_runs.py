"""Two runs with fake VM processes: one migrates its VM to the other."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from emu.config.plan import MigrationPlan
from emu.migration.endpoint import MigrationEndpoint
from emu.orchestrator.images_lock import Role
from emu.orchestrator.migrate_in import IncomingMigration
from emu.orchestrator.migrate_out import OutgoingMigration
from emu.orchestrator.supervisor import Supervisor
from emu.report.progress import LineProgress
from tests.emu.fake_runs import FAKE_VM, machine_plan

if TYPE_CHECKING:
    from contextlib import ExitStack
    from pathlib import Path

    from emu.report.results import MigrationReport


class TwoRuns:
    """A destination that listens, and the source's command.

    Args:
        folder: where the socket of the migration is.
        owned: ends the programs.
        changes: of both runs' plans.

    Attributes:
        incoming: the destination's migration.
        here, there: what the source and the destination print.
    """

    def __init__(self, folder: Path, owned: ExitStack, **changes: Any) -> None:
        self.here, self.there = io.StringIO(), io.StringIO()
        self._plan = machine_plan(**changes)
        self._owned = owned
        self.endpoint = MigrationEndpoint(f"unix:{folder / 'migration'}")
        self.incoming = self._destination()

    def _supervisor(self, out: io.StringIO, role: Role) -> Supervisor:
        made = Supervisor(self._plan, LineProgress(out), sides=1, role=role, vm_program=FAKE_VM)
        return self._owned.enter_context(made)

    def _destination(self) -> IncomingMigration:
        supervisor = self._supervisor(self.there, Role.DESTINATION)
        supervisor.start_programs()
        incoming = IncomingMigration(supervisor, self.endpoint)
        incoming.listen("a small VM")
        return incoming

    def migrate(self, strategy: str = "split") -> MigrationReport:
        """Run the source's command."""
        supervisor = self._supervisor(self.here, Role.SOURCE)
        plan = MigrationPlan(self._plan, (strategy,))
        return OutgoingMigration(plan, supervisor, self.endpoint).run()
