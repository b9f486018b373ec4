"""The rounds: QEMU's VM and this project's in alternation, on each set of back-ends."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

from emu.config.backend_commands import READY_MADE, BackEndCommand
from emu.errors import EmuError, SignalError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from bench.qemu_baseline.measurement import MeasuredVm, MigrationFigures, StopFigures
    from emu.config.plan import MachinePlan
    from emu.config.vm_spec import VmSpec
    from emu.orchestrator.signals import SignalWatcher

#: The two VMs.
QEMU, EMU = VMS = ("qemu", "vhost-emu")


class BackEnds(NamedTuple):
    """Programs that serve the devices of both VMs.

    Attributes:
        name: ``own``, or ``others``.
        commands: by class of devices; this project's programs serve the other classes.
        programs: the names of all of them, for people.
    """

    name: str
    commands: Mapping[str, BackEndCommand]
    programs: str


def own_back_ends(spec: VmSpec) -> BackEnds:
    """This project's."""
    return BackEnds("own", {}, ", ".join(_own(group.device_class) for group in spec.groups))


def other_back_ends(spec: VmSpec) -> tuple[BackEnds | None, list[str]]:
    """Those of other projects that are installed, and a line for each one that is missing."""
    commands, programs, missing = {}, [], []
    for group in spec.groups:
        name, command = _ready_made(group.device_class)
        program = command.words[0]
        if shutil.which(program):
            commands[group.device_class] = command
            programs.append(program)
        else:
            missing.append(f"{name} is not measured: {program} is not installed")
            programs.append(_own(group.device_class))
    if not commands:
        return None, missing
    return BackEnds("others", commands, ", ".join(programs)), missing


def _own(device_class: str) -> str:
    return f"vhost-emu-{device_class}"


def _ready_made(device_class: str) -> tuple[str, BackEndCommand]:
    name = next(name for name, each in READY_MADE.items() if each.device_class == device_class)
    return name, BackEndCommand.parse(device_class, name)


@dataclass
class Series:
    """What was measured of one VM on one set of back-ends, in order.

    Attributes:
        stops: all stops and starts.
        migrations: by strategy.
    """

    stops: list[StopFigures] = field(default_factory=list)
    migrations: dict[str, list[MigrationFigures]] = field(default_factory=dict)


class Failure(NamedTuple):
    """A VM of a round that failed: some figures of that round are missing, or all."""

    back_ends: str
    vm: str
    round: int
    reason: str


class Rounds:
    """Runs them. The VM that begins changes from round to round.

    Each VM of each round is started anew, with its back-ends, and ended before the next one starts.

    Args:
        plan: of both VMs, with this project's back-ends.
        sets: the sets of back-ends.
        make: makes the VM of a name, with its back-ends.
        stops: how often each one is stopped and started.
        watcher: has the signals that arrive between two VMs.
        report: gets a line before each VM.

    Attributes:
        series: by the name of the set, and that of the VM.
        failures: in order.
        loads: the load average of the host before each VM.
    """

    def __init__(
        self,
        plan: MachinePlan,
        sets: Sequence[BackEnds],
        make: Callable[[str, MachinePlan], AbstractContextManager[MeasuredVm]],
        *,
        stops: int,
        watcher: SignalWatcher,
        report: Callable[[str], None],
    ) -> None:
        self.series = {each.name: {vm: Series() for vm in VMS} for each in sets}
        self.failures: list[Failure] = []
        self.loads: list[float] = []
        self._plan = plan
        self._sets = sets
        self._make = make
        self._stops = stops
        self._watcher = watcher
        self._report = report

    def run(self, rounds: int) -> None:
        """Run them; what was measured before an error stays.

        Raises:
            SignalError: a signal arrived.
        """
        for number in range(1, rounds + 1):
            for back_ends in self._sets:
                for vm in VMS if number % 2 else VMS[::-1]:
                    self._report(f"round {number} of {rounds}: {vm} on {back_ends.programs}")
                    self.loads.append(os.getloadavg()[0])
                    try:
                        self._watcher.check()
                        self._measure(back_ends, vm)
                    except SignalError:
                        raise
                    except EmuError as error:
                        self.failures.append(Failure(back_ends.name, vm, number, str(error)))

    def _measure(self, back_ends: BackEnds, name: str) -> None:
        series = self.series[back_ends.name][name]
        plan = replace(self._plan, back_ends=back_ends.commands)
        with self._make(name, plan) as vm:
            vm.boot()
            for _ in range(self._stops):
                series.stops.append(vm.stop_and_cont())
            for strategy, figures in vm.migrate().items():
                series.migrations.setdefault(strategy, []).append(figures)
