"""The front-end beside its floor: a C program that sends the same bytes to the same back-ends.

All rings of all devices are stopped, or started as `prewired` does it in the blackout, with
back-ends of this project and with those of others. What these take is the same in both cases, so
the ratio shows what this project's front-end adds. Skipped where the other programs are missing.
"""

from __future__ import annotations

import statistics
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from bench.fleet import Fleet
from bench.floor_program import FRONT_END_SOURCE, NoCompilerError, build, exchange
from bench.replay import recorded, replay
from devices.procedure import Ask, AwaitSwitchover, Change
from emu.config.backend_commands import BackEndCommand
from emu.config.vm_spec import DeviceGroup, VmSpec
from emu.errors import PreflightError, ProgramError
from emu.strategies.split import Split

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from bench.figures import Figure
    from emu.strategies.task import Task

GIB = 1 << 30
#: Of each, in alternation.
ROUNDS = 15


class Setting(NamedTuple):
    """Devices and their back-ends.

    Attributes:
        name: of both, in the results.
        groups: the devices.
        others: the classes that other programs serve, by the names of the programs.
    """

    name: str
    groups: tuple[DeviceGroup, ...]
    others: dict[str, str]


SETTINGS = (
    Setting("ours, 2 NICs, 2 disks", (DeviceGroup("net", 2, 4), DeviceGroup("blk", 2, 2)), {}),
    Setting("ours, 16 NICs, 24 disks", (DeviceGroup("net", 16, 32), DeviceGroup("blk", 24, 4)), {}),
    Setting(
        "qemu-storage-daemon, 24 disks",
        (DeviceGroup("blk", 24, 4),),
        {"qemu-storage-daemon": "blk"},
    ),
    Setting("testpmd, 16 NICs", (DeviceGroup("net", 16, 32),), {"testpmd": "net"}),
)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(each, id=each.name, marks=[pytest.mark.smoke][: each is SETTINGS[0]])
        for each in SETTINGS
    ],
)
def setting(request: pytest.FixtureRequest) -> Setting:
    """The devices, and who serves them."""
    chosen: Setting = request.param
    return chosen


@pytest.fixture(scope="module")
def fleet(setting: Setting) -> Iterator[Fleet]:
    """The devices, with their back-ends."""
    try:
        build(FRONT_END_SOURCE)
        others = {kind: BackEndCommand.parse(kind, name) for name, kind in setting.others.items()}
        with Fleet(VmSpec(1, GIB, setting.groups), others) as fleet:
            yield fleet
    except NoCompilerError as error:
        pytest.skip(f"the floor cannot be built: {error}")
    except (PreflightError, ProgramError, OSError) as error:
        pytest.skip(str(error))


class Both:
    """Times the front-end and the floor, in alternation."""

    def __init__(self, benchmark: Any, figure: Figure, fleet: Fleet, setting: Setting) -> None:
        self.fleet = fleet
        self._setting = setting
        self._benchmark = benchmark
        self._figure = figure

    def time(self, tasks: Callable[[], list[Task]], halt: type[Change] | None = None) -> None:
        """Drive the tasks, which are made anew for each round."""
        rounds = 1 if self._benchmark.disabled else ROUNDS
        ours, floor = [], []
        for number in range(rounds):
            steps: list[Callable[[], None]] = [
                lambda: ours.append(self._drive(tasks(), halt)),
                lambda: floor.append(exchange(_asked(tasks()))),
            ]
            for step in steps if number % 2 else reversed(steps):
                step()
        self._figure.unit, self._figure.units = "ring", self.fleet.spec.rings
        self._figure.floor_ns = int(statistics.median(floor))
        self._figure.info.update(setting=self._setting.name, others=bool(self._setting.others))
        replay(self._benchmark, [each / 1e9 for each in ours])

    def _drive(self, tasks: Sequence[Task], halt: type[Change] | None) -> int:
        strategy, stage = Split(), self.fleet.stage()
        begin = perf_counter_ns()
        strategy.drive(tasks, stage, halt=halt)
        return perf_counter_ns() - begin


def _asked(tasks: Sequence[Task]) -> list[Ask]:
    """The messages that the tasks are about to send."""
    for task in tasks:
        if isinstance(task.step, AwaitSwitchover):
            task.resume(None)
    return [task.step for task in tasks if isinstance(task.step, Ask)]


@pytest.fixture
def both(benchmark: Any, figure: Figure, fleet: Fleet, setting: Setting) -> Both:
    """Whatever times both."""
    return Both(benchmark, figure, fleet, setting)


@pytest.mark.benchmark(timer=recorded)
def test_stop(both: Both) -> None:
    """GET_VRING_BASE of all rings, all of them running."""

    def running() -> list[Task]:
        both.fleet.run()
        return both.fleet.stopping()

    both.time(running, halt=Change)


@pytest.mark.benchmark(timer=recorded)
def test_activate(both: Both) -> None:
    """BASE, ADDR and ENABLE of all rings: what `prewired` has left in the blackout."""
    both.time(both.fleet.activating)
