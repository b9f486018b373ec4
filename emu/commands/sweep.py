"""`emu sweep`: migrates VMs of several sizes, to show how the blackout grows."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from backends.trace_options import trace_options
from emu.commands import completion, host_limits, validate
from emu.commands.color_option import color_option
from emu.commands.fail_if_option import check, fail_if_option, gates
from emu.commands.json_output import deliver, report_stream
from emu.commands.migration_options import (
    MigrationOptions,
    migration_options,
    parameters,
    strategy_options,
)
from emu.commands.openmetrics_option import deliver_migrations, openmetrics_option
from emu.commands.option_values import values_of
from emu.commands.options import MachineOptions, machine_options, machine_plan
from emu.commands.report_option import ReportFiles, command_line, report_options
from emu.commands.trace_option import trace_option
from emu.config.plan import MigrationPlan
from emu.errors import EmuError, OptionError
from emu.report import progress

if TYPE_CHECKING:
    from pathlib import Path

    from emu.report.results import MigrationReport


@dataclass(frozen=True, slots=True)
class SweepOptions:
    """The values of the options that only `emu sweep` has."""

    devices: str
    rings: int
    strategies: str
    repeat: int
    fail_if: tuple[str, ...]
    openmetrics: Path | None


HELP = """Migrate VMs of several sizes, and show how stop and start grow with the rings.

Half of a VM's devices are NICs and half are disks, with --rings rings each. Every VM migrates
--repeat times with each strategy; the table has the medians, and their ratios to those of the
smallest VM.

\b
Examples:
  emu sweep
  emu sweep --devices 2,8,32 --rings 4 --strategy split,prewired
  emu sweep --costs rfc2021 --control shared
  emu sweep --report sweep.html
  emu sweep --fail-if 'prewired.stop_ms > 20'
"""


@click.command(help=HELP, short_help="Migrate VMs of several sizes and compare.")
@click.option(
    "--devices",
    default="4,16,40,128",
    show_default=True,
    metavar="N[,N...]",
    help="Numbers of devices, one for each VM.",
)
@click.option(
    "--rings",
    type=click.IntRange(2, 256),
    default=8,
    show_default=True,
    metavar="R",
    help="Rings of each device.",
)
@click.option(
    "--strategy",
    "-s",
    "strategies",
    default="qemu-2021,prewired",
    show_default=True,
    shell_complete=completion.strategies,
    metavar="NAME[,NAME...]",
    help="Schedulers that stop and start the devices, in turn.",
)
@click.option(
    "--repeat",
    type=click.IntRange(1, validate.MAX_REPEAT),
    default=5,
    show_default=True,
    metavar="N",
    help="Migrations of each VM with each strategy.",
)
@fail_if_option
@openmetrics_option
@migration_options
@machine_options
@report_options
@trace_options
@trace_option
@color_option
def sweep(**options: Any) -> None:
    """Validate the options, migrate every VM, and print the report."""
    from emu.orchestrator.migrate_local import migrate_all
    from emu.report import sweep as sweeping
    from vhost_user.console import console_for

    machine = MachineOptions.of(options)
    migration = values_of(MigrationOptions, options)
    own = values_of(SweepOptions, options)
    numbers = sweeping.sizes(own.devices)
    if own.rings % 2:
        raise OptionError(f"--rings {own.rings}: a NIC's rings come in pairs")
    strategies = validate.strategies(own.strategies, migration.plugins)
    conditions = gates(own.fail_if, [strategy.NAME for strategy in strategies])
    plan = MigrationPlan(
        machine=machine_plan(machine),
        strategies=tuple(strategy.NAME for strategy in strategies),
        handing_over=[strategy.NAME for strategy in strategies if strategy.hands_over],
        repeat=own.repeat,
        options=strategy_options(migration),
        parameters=parameters(migration),
        strict_downtime=migration.strict_downtime,
    )
    plans = [_sized(plan, number, own.rings) for number in numbers]
    reports: list[MigrationReport] = []
    error = None
    for each in plans:
        report, error = migrate_all(each, progress.make(quiet=machine.quiet))
        reports += [] if report is None else [report]
        if error is not None:
            break
    if not reports and error is not None:
        raise error
    path = machine.json_file
    if not machine.quiet:
        console = console_for(report_stream(path))
        points = [point for report in reports for point in sweeping.points_of(report)]
        plain = not console.is_terminal
        console.print(sweeping.heading(plan, reports[0].accel), soft_wrap=plain)
        console.print(sweeping.table(points, plain=plain))
        for report in reports:
            if report.ended_early:
                console.print(report.ended_early)
    planned = sum(len(each.sequence) for each in plans)
    not_run = planned - sum(len(report.runs) for report in reports)
    whole = {**sweeping.document(plan, reports, not_run=not_run), "command": command_line()}
    deliver(path, whole)
    deliver_migrations(own.openmetrics, whole["migrations"])
    values_of(ReportFiles, options).deliver("sweep_page", whole)
    if error is not None:
        raise error
    for report in reports:
        if not report.ok:
            raise EmuError(report.failure())
    check(
        conditions,
        [
            (f"with {number} devices", each)
            for number, each in zip(numbers, whole["migrations"], strict=True)
        ],
    )


def _sized(plan: MigrationPlan, devices: int, rings: int) -> MigrationPlan:
    from emu.config.vm_spec import ShapeError
    from emu.report.sweep import shape_of

    try:
        spec = shape_of(devices, rings, plan.machine.spec)
    except ShapeError as error:
        raise OptionError(str(error)) from None
    host_limits.check(spec)
    return dataclasses.replace(plan, machine=dataclasses.replace(plan.machine, spec=spec))
