"""`emu sweep`: migrates VMs of several sizes, to show how the blackout grows."""

from __future__ import annotations

import dataclasses
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from backends.trace_options import trace_options
from emu.commands import validate
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
from emu.commands.options import MachineOptions, machine_plan
from emu.commands.report_option import ReportFiles, command_line, report_options
from emu.commands.sweep_options import (
    SweepOptions,
    cluster_options,
    matrix_options,
    sweep_machine_options,
)
from emu.commands.trace_option import trace_option
from emu.config.plan import MigrationPlan
from emu.errors import EmuError, OptionError
from emu.orchestrator import host_limits
from emu.report import progress
from vhost_user import tracing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emu.strategies.base import Strategy
    from emu.sweep.matrix import SweepPoint
    from emu.sweep.run import SweepOutcome

HELP = """Migrate VMs of several sizes, and show how stop and start grow with the rings.

Half of a VM's devices are NICs and half are disks, with --rings rings each; with --net, --blk or
--rng the VMs are all combinations of these shapes. Every VM migrates --repeat times with each
strategy; the table has the medians, and their ratios to those of the smallest VM.

With --results a sweep that was interrupted continues: the VMs that were finished do not migrate
again. With --scheduler the VMs migrate on workers, at most one at a time on each.

\b
Examples:
  emu sweep
  emu sweep --devices 2,8,32 --rings 4 --strategy split,prewired
  emu sweep --net 1..16x32 --blk 24x4,24x16 --strategy all --accel soft,kvm
  emu sweep --results DIR --scheduler tcp://HOST:8786
  emu sweep --costs rfc2021 --control shared
  emu sweep --report sweep.html
  emu sweep --fail-if 'prewired.stop_ms > 20'
"""


@click.command(help=HELP, short_help="Migrate VMs of several sizes and compare.")
@matrix_options
@cluster_options
@fail_if_option
@openmetrics_option
@migration_options
@sweep_machine_options
@report_options
@trace_options
@trace_option
@color_option
def sweep(**options: Any) -> None:
    """Validate the options, migrate every VM, and print the report."""
    own = SweepOptions.of(options)
    machine = MachineOptions.of({**options, **own.first_devices})
    migration = values_of(MigrationOptions, options)
    _check_scheduler(own)
    strategies = validate.strategies(own.strategies, migration.plugins)
    conditions = gates(own.fail_if, [strategy.NAME for strategy in strategies])
    plans = _plans(own, machine, migration, strategies)
    outcome = _run(own, plans, quiet=machine.quiet)
    documents = list(outcome.documents.values())
    if not documents and outcome.error is not None:
        raise outcome.error
    from emu.report.sweep import document

    path = machine.json_file
    first = next(iter(plans.values()))
    whole = {**document(first, documents, not_run=outcome.not_run), "command": command_line()}
    if not machine.quiet:
        _print(own, outcome, machine)
    deliver(path, whole)
    deliver_migrations(own.openmetrics, documents)
    values_of(ReportFiles, options).deliver("sweep_page", whole)
    if outcome.error is not None:
        raise outcome.error
    if outcome.failure:
        raise EmuError(outcome.failure)
    check(conditions, [(_which(own, point), each) for point, each in outcome.documents.items()])


def _check_scheduler(own: SweepOptions) -> None:
    from emu.cluster import scheduler

    if own.scheduler is None:
        if own.workers is not None:
            raise OptionError(f"--workers goes with --scheduler {scheduler.LOCAL}")
        return
    scheduler.check_scheduler(own.scheduler, own.workers)
    if tracing.environment("-"):
        raise OptionError("--scheduler: a trace has no events of workers, leave its options out")


def _plans(
    own: SweepOptions,
    machine: MachineOptions,
    migration: MigrationOptions,
    strategies: Sequence[type[Strategy]],
) -> dict[SweepPoint, MigrationPlan]:
    """The plan of each point; checked against this host, unless the workers are others'."""
    from emu.cluster.scheduler import LOCAL
    from emu.sweep import matrix

    accels = matrix.accelerators(own.accel)
    here = own.scheduler in (None, LOCAL)
    base = machine_plan(dataclasses.replace(machine, accel=accels[0]), check_host=False)
    plan = MigrationPlan(
        machine=base,
        strategies=tuple(strategy.NAME for strategy in strategies),
        handing_over=[strategy.NAME for strategy in strategies if strategy.hands_over],
        repeat=own.repeat,
        options=strategy_options(migration),
        parameters=parameters(migration),
        strict_downtime=migration.strict_downtime,
    )
    plans = {}
    for point in matrix.points(own.specs(base.spec), accels):
        if here:
            host_limits.check_accelerator(point.accel, point.spec)
            host_limits.check(point.spec)
        sized = dataclasses.replace(base, spec=point.spec, accel=point.accel)
        plans[point] = dataclasses.replace(plan, machine=sized)
    return plans


def _run(own: SweepOptions, plans: dict[SweepPoint, MigrationPlan], *, quiet: bool) -> SweepOutcome:
    from emu.orchestrator.signals import SignalWatcher
    from emu.sweep import results, run, workers

    make_progress = partial(progress.make, quiet=quiet)
    with ExitStack() as stack:
        kept = None
        if own.results_path is not None:
            settings = results.settings_of(next(iter(plans.values())))
            kept = stack.enter_context(results.ResultsDirectory(own.results_path, settings))
        if own.scheduler is None:

            def report(text: str) -> None:
                with make_progress() as between:  # each point has a progress of its own
                    between.done(text)

            return run.run_sweep(plans, run.run_here(make_progress), report, kept)
        watcher = stack.enter_context(SignalWatcher())
        shown = stack.enter_context(make_progress())
        there = workers.run_there(own.scheduler, own.workers, watcher, shown)
        return run.run_sweep(plans, there, shown.done, kept)


def _print(own: SweepOptions, outcome: SweepOutcome, machine: MachineOptions) -> None:
    """Print the table of the points with completed migrations."""
    from emu.report import sweep as sweeping
    from vhost_user.console import console_for

    documents = list(outcome.documents.values())
    console = console_for(report_stream(machine.json_file))
    points = [point for each in documents for point in sweeping.points_of(each)]
    plain = not console.is_terminal
    first = next(iter(outcome.plans.values()))
    console.print(sweeping.heading(first, documents), soft_wrap=plain)
    console.print(sweeping.table(points, plain=plain, shapes=bool(own.shapes)))
    if outcome.not_run:
        console.print(f"{outcome.not_run} of {outcome.planned} migrations were not finished")


def _which(own: SweepOptions, point: SweepPoint) -> str:
    """The point, for conditions of ``--fail-if``."""
    if own.shapes or "," in own.accel:
        return f"with {point.label}"
    return f"with {len(point.spec.devices)} devices"
