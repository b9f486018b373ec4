"""The downtime of real migrations: strategy x shape x costs.

The time of a round is the accounted downtime of one migration: from just before the first source
vCPU is asked to pause until the last destination vCPU runs. All strategies of a setting migrate the
same VM in turn, back and forth, so that what else the machine does meets each of them alike; what
was accounted is then replayed as the rounds of the strategy's benchmark.
"""

from __future__ import annotations

import contextlib
import statistics
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from bench.floor_program import shape_of
from bench.replay import recorded, replay
from emu.config.plan import MachinePlan, MigrationPlan
from emu.config.vm_spec import DeviceGroup, VmSpec
from emu.errors import PreflightError, SignalError
from emu.orchestrator import host_limits
from emu.orchestrator.migrate_local import MigrationSeries
from emu.orchestrator.supervisor import Supervisor
from emu.report.progress import SilentProgress
from emu.report.results import median
from emu.strategies.prewired import Prewired
from emu.strategies.registry import STRATEGIES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench.figures import Figure
    from bench.floor_program import Floor
    from emu.report.results import MigrationReport, MigrationResult

GIB = 1 << 30
NET = DeviceGroup("net", 16, 32)
BLK = DeviceGroup("blk", 24, 4)
SMALL = VmSpec(4, GIB, (DeviceGroup("net", 2, 4), DeviceGroup("blk", 2, 2)))
DISKS = VmSpec(16, 16 * GIB, (BLK,))
RFC = VmSpec(224, 180 * GIB, (NET, BLK))


def halves(devices: int) -> VmSpec:
    """Devices with 8 rings each: half of them NICs, half disks."""
    return VmSpec(
        4, GIB, (DeviceGroup("net", devices // 2, 8), DeviceGroup("blk", devices // 2, 8))
    )


class Setting(NamedTuple):
    """One VM with its costs.

    Attributes:
        name: shape and costs, for people.
        machine: what is migrated.
        rounds: how often each strategy migrates it.
        strategies: those that do.
    """

    name: str
    machine: MachinePlan
    rounds: int
    strategies: tuple[str, ...] = tuple(STRATEGIES)


SETTINGS = (
    Setting("small-native", MachinePlan(SMALL), 7),
    Setting("disks-native", MachinePlan(DISKS), 7),
    # Back-ends that take long to stop, as those of a busy storage network do.
    Setting("disks-stop20ms", MachinePlan(DISKS, stop_time=20_000_000), 3),
    Setting("rfc-native", MachinePlan(RFC), 7),
    Setting("rfc-rfc2021", MachinePlan(RFC, costs="rfc2021"), 2),
    # How the time grows with the devices: 32 times as many.
    Setting("4-devices", MachinePlan(halves(4)), 5, (Prewired.NAME,)),
    Setting("128-devices", MachinePlan(halves(128)), 5, (Prewired.NAME,)),
)
CASES = [
    pytest.param(
        setting,
        strategy,
        id=f"{setting.name}-{strategy}",
        marks=[pytest.mark.smoke] if setting is SETTINGS[0] else [],
    )
    for setting in SETTINGS
    for strategy in setting.strategies
]


class Migrations:
    """The migrations of one setting, and the floor of the same shape and session."""

    def __init__(self, setting: Setting, report: MigrationReport, floor: Floor) -> None:
        self.setting = setting
        self.report = report
        self.floor = floor

    def of(self, strategy: str) -> list[MigrationResult]:
        """Those of one strategy."""
        return [run for run in self.report.runs if run.strategy == strategy]


@pytest.fixture(scope="module")
def migrate(
    request: pytest.FixtureRequest, floor: Callable[[Sequence[str]], Floor]
) -> Callable[[Setting], Migrations]:
    """Migrates a setting's VM by each selected strategy, in turn, when it is first asked for."""
    done: dict[str, Migrations] = {}

    def migrate(setting: Setting) -> Migrations:
        if setting.name not in done:
            measured = floor(shape_of(setting.machine.spec))
            timed = not request.config.getoption("benchmark_disable")
            done[setting.name] = _migrate(
                setting,
                _selected(request.session, setting),
                setting.rounds if timed else 1,
                measured,
            )
        return done[setting.name]

    return migrate


def _migrate(
    setting: Setting, strategies: tuple[str, ...], rounds: int, floor: Floor
) -> Migrations:
    plan = MigrationPlan(
        setting.machine,
        strategies,
        rounds,
        handing_over=[name for name, strategy in STRATEGIES.items() if strategy.hands_over],
    )
    try:
        host_limits.check(plan.machine.spec)
    except PreflightError as error:
        pytest.skip(str(error))
    with _interruptible(), Supervisor(plan.machine, SilentProgress()) as supervisor:
        report = MigrationSeries(plan, supervisor).run()
    return Migrations(setting, report, floor)


def _selected(session: pytest.Session, setting: Setting) -> tuple[str, ...]:
    """The strategies of this setting that are among the session's benchmarks."""
    params = [item.callspec.params for item in session.items if hasattr(item, "callspec")]
    return tuple(p["strategy"] for p in params if p.get("setting") is setting)


@contextlib.contextmanager
def _interruptible() -> Any:
    """Ctrl-C ends the session, and not only this migration."""
    try:
        yield
    except SignalError as error:
        raise KeyboardInterrupt from error


@pytest.mark.benchmark(timer=recorded)
@pytest.mark.parametrize(("setting", "strategy"), CASES)
def test_downtime(
    benchmark: Any,
    figure: Figure,
    migrate: Callable[[Setting], Migrations],
    setting: Setting,
    strategy: str,
) -> None:
    """One round for each migration; a migration that lost anything has no downtime to report."""
    migrations = migrate(setting)
    runs = migrations.of(strategy)
    for run in runs:
        assert run.ok, run.failure
    figure.name = strategy
    benchmark.group = f"downtime: {migrations.setting.name}"
    figure.floor_ns = migrations.floor.downtime_ns
    figure.lockstep_floor_ns = migrations.floor.lockstep_downtime_ns
    figure.info.update(_facts(migrations, strategy, runs))
    figure.notes.update(_notes(runs))
    replay(benchmark, [run.downtime_ms / 1e3 for run in runs if run.downtime_ms is not None])


def _facts(
    migrations: Migrations, strategy: str, runs: Sequence[MigrationResult]
) -> dict[str, Any]:
    """The figures for the JSON; phases are those of the median run."""
    machine = migrations.setting.machine
    typical = sorted(runs, key=lambda run: run.downtime_ms or 0.0)[len(runs) // 2]
    return {
        "strategy": strategy,
        "vcpus": machine.spec.vcpus,
        "memory_bytes": machine.spec.memory_bytes,
        "shape": " ".join(shape_of(machine.spec)),
        "costs": machine.costs,
        "stop_time_ms": machine.stop_time / 1e6,
        "accel": migrations.report.accel,
        "floor": migrations.floor._asdict(),
        "commits": int(statistics.median(run.commits for run in runs)),
        "stop_start_ms": _stop_start(runs),
        "guest_gap_ms": median([run.guest_gap_ms for run in runs]),
        "network_gap_ms": median([run.network_gap_ms for run in runs]),
        "requests_in_flight_at_stop": [run.requests_in_flight_at_stop for run in runs],
        "phases": [row.to_json() for row in typical.phases],
        "runs": [run.to_json() for run in runs],
    }


def _stop_start(runs: Sequence[MigrationResult]) -> float:
    """Milliseconds for the stop of all devices and for their start."""
    return statistics.median((run.stop_ms or 0.0) + (run.start_ms or 0.0) for run in runs)


def _notes(runs: Sequence[MigrationResult]) -> dict[str, str]:
    network = median([run.network_gap_ms for run in runs])
    return {
        "devices": f"{_stop_start(runs):.1f} ms",
        "guest gap": f"{median([run.guest_gap_ms for run in runs]):.1f} ms",
        "network gap": "-" if network is None else f"{network:.1f} ms",
        "commits": str(int(statistics.median(run.commits for run in runs))),
        "runs": str(len(runs)),
    }
