"""One point of a sweep: its migrations, in this process or in one of its own.

``python -m emu.sweep.point`` is the task of a worker (`emu.cluster`): it reads a pickled plan from
stdin, and writes the result to stdout as JSON.
"""

from __future__ import annotations

import json
import pickle
import sys
from typing import TYPE_CHECKING, NamedTuple

from emu.errors import EmuError
from emu.orchestrator import host_limits
from emu.orchestrator.migrate_local import migrate_all
from emu.report.progress import SilentProgress
from emu.strategies import registry

if TYPE_CHECKING:
    from emu.config.plan import MigrationPlan
    from emu.qmp.protocol import JsonObject
    from emu.report.progress import Progress
    from vhost_user.errors import VhostUserError


class PointResult(NamedTuple):
    """What has become of a point.

    Attributes:
        document: that of `emu migrate`; None if no migration was finished.
        failure: why the point fails the sweep; empty if it does not.
        complete: all migrations were finished, whatever their outcome.
    """

    document: JsonObject | None
    failure: str = ""
    complete: bool = False


def measure(
    plan: MigrationPlan, progress: Progress
) -> tuple[PointResult, EmuError | VhostUserError | None]:
    """Make the migrations of a point, on this host.

    Returns:
        The result, and the error that ended the migrations early, if any.
    """
    machine = plan.machine
    try:
        host_limits.check(machine.spec)
        host_limits.check_accelerator(machine.accel, machine.spec)
    except EmuError as error:
        return PointResult(None, str(error)), error
    report, ended = migrate_all(plan, progress)
    document = None if report is None else report.to_json(timelines=False)
    if ended is not None:
        return PointResult(document, str(ended)), ended
    failure = "" if report is None or report.ok else report.failure()
    return PointResult(document, failure, complete=report is not None), None


def main() -> None:
    """Run the point of stdin."""
    plan: MigrationPlan = pickle.load(sys.stdin.buffer)  # noqa: S301  from the worker
    for plugin in plan.machine.plugins:
        registry.load_file(plugin)
    result, _error = measure(plan, SilentProgress())
    json.dump(result._asdict(), sys.stdout)


if __name__ == "__main__":
    main()
