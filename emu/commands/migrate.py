"""`emu migrate`: migrates a VM live with several strategies, and prints the RFC's table."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from backends.trace_options import trace_options
from emu.commands import completion, validate
from emu.commands.backend_options import socket_options
from emu.commands.between_options import BetweenOptions, between_options, check_machine, endpoint_of
from emu.commands.color_option import color_option
from emu.commands.fail_if_option import check, fail_if_option, gates
from emu.commands.json_output import deliver, report_stream
from emu.commands.migration_options import (
    MigrationOptions,
    migration_options,
    parameters,
    strategy_options,
)
from emu.commands.network_options import network_options
from emu.commands.openmetrics_option import deliver_migrations, openmetrics_option
from emu.commands.option_values import values_of
from emu.commands.options import (
    MachineOptions,
    device_options,
    machine_options,
    machine_plan,
)
from emu.commands.report_option import ReportFiles, command_line, report_options
from emu.commands.trace_option import trace_option
from emu.config.plan import TRANSPORTS, MigrationPlan
from emu.errors import EmuError, OptionError, PluginError
from emu.report import progress
from emu.strategies import registry

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from emu.report.gates import Gate
    from emu.report.results import MigrationReport


@dataclass(frozen=True, slots=True)
class MigrateOptions:
    """The values of the options that only `emu migrate` has."""

    strategies: str | None
    repeat: int
    via: str
    to: str | None
    wide: bool
    network: str
    fail_if: tuple[str, ...]
    openmetrics: Path | None


HELP = """Migrate a VM live between two processes, and compare how its devices stop and start.

The VM (by default that of the RFC of March 2021: 224 vCPUs, 180 GiB, 16 NICs with 32 rings,
24 disks with 4 rings) is under load and migrates once for each strategy, back and forth. Each
side has vhost-user back-end programs of its own (except with handover). The report has the time
of each phase by strategy, the downtime as measured by the VM processes, in the guest and from the
network, and whether the guest's requests were lost, duplicated or corrupted.

\b
Strategies:
{strategies}

The status is 0 only when every migration completed, no request was lost, nothing was duplicated or
corrupted, and no condition of --fail-if holds.

\b
Examples:
  emu migrate
  emu migrate --net 2x4 --blk 2x2 --vcpus 4 --memory 1G --strategy split
  emu migrate --costs rfc2021 --strategy qemu-2021,prewired --json result.json
  emu migrate --stop-time 20ms --control shared
  emu migrate --repeat 5 --fail-if 'prewired.downtime_ms > 30'
  emu migrate --disk debian.iso
  emu migrate --network netns
  emu migrate --report result.html --png result.png

With --to the VM migrates once, to an `emu run --incoming` in another terminal or on another
machine (docs/how-to/between-machines.md). The destination checks the guest's request log at the
end of its own run.

\b
  emu migrate --to tcp:127.0.0.1:4444 --images /tmp/images --vm small.toml
"""


class _Migrate(click.Command):
    """Lists all strategies in its help, including those of plug-ins."""

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the help, with a line for each strategy."""
        with contextlib.suppress(PluginError):  # reported when the strategy is used
            registry.load_installed()
        self.help = HELP.format(strategies=registry.help_lines())
        super().format_help_text(ctx, formatter)


@click.command(
    cls=_Migrate,
    help=HELP,
    short_help="Migrate a VM live and compare strategies.",
)
@click.option(
    "--strategy",
    "-s",
    "strategies",
    shell_complete=completion.strategies,
    metavar="NAME[,NAME...]",
    help="Schedulers that stop and start the devices, one migration each; "
    f"{validate.ALL_STRATEGIES} for all of them. [default: {','.join(registry.DEFAULT_COMPARED)}; "
    f"with --to: {registry.DEFAULT_COMPARED[-1]}]",
)
@click.option(
    "--repeat",
    type=click.IntRange(1, validate.MAX_REPEAT),
    default=1,
    show_default=True,
    metavar="N",
    help="Migrate N times with each strategy.",
)
@click.option(
    "--via",
    type=click.Choice(TRANSPORTS),
    default="unix",
    show_default=True,
    help="Socket of the migration stream; tcp is on loopback.",
)
@click.option(
    "--to",
    metavar="URI",
    help="Migrate once, to an `emu run --incoming` at tcp:ADDRESS:PORT or unix:PATH.",
)
@click.option(
    "--tls-hostname",
    metavar="NAME",
    help="The name that the destination's certificate must have. [default: the host in --to]",
)
@click.option(
    "--wide",
    is_flag=True,
    help="Print all columns of the tables, even if the terminal is too narrow for them.",
)
@fail_if_option
@openmetrics_option
@between_options
@network_options
@migration_options
@device_options
@socket_options
@machine_options
@report_options
@trace_options
@trace_option
@color_option
def migrate(**options: Any) -> None:
    """Validate the options, migrate, and print the report."""
    from emu.orchestrator.images_lock import Role
    from emu.orchestrator.migrate_local import migrate_all
    from emu.orchestrator.migrate_out import OutgoingMigration
    from emu.orchestrator.supervisor import Supervisor

    machine = MachineOptions.of(options)
    migration = values_of(MigrationOptions, options)
    own = values_of(MigrateOptions, options)
    endpoint = endpoint_of("--to", own.to, values_of(BetweenOptions, options), listens=False)
    text = own.strategies
    if text is None:
        compared = registry.DEFAULT_COMPARED
        text = ",".join(compared if endpoint is None else compared[-1:])
    strategies = validate.strategies(text, migration.plugins)
    names = tuple(strategy.NAME for strategy in strategies)
    handing_over = [strategy.NAME for strategy in strategies if strategy.hands_over]
    conditions = gates(own.fail_if, names)
    validate.transport(own.via, handing_over)
    validate.unsafe_strategy(migration.unsafe, names)
    if endpoint is not None:
        _check_single(own, names, handing_over)
    plan = MigrationPlan(
        machine=machine_plan(machine, ("src", "dst") if endpoint is None else ("src",)),
        strategies=names,
        repeat=own.repeat,
        via=own.via,
        options=strategy_options(migration),
        parameters=parameters(migration),
        strict_downtime=migration.strict_downtime,
        network=own.network,
        handing_over=handing_over,
    )
    check_machine("--to", plan.machine, endpoint)
    show = progress.make(quiet=machine.quiet)
    files = values_of(ReportFiles, options)
    if endpoint is not None:
        with show, Supervisor(plan.machine, show, sides=1, role=Role.SOURCE) as supervisor:
            finished = OutgoingMigration(plan, supervisor, endpoint).run()
        _deliver(finished, machine, own, conditions, files)
        return
    report, error = migrate_all(plan, show)
    if report is None:
        assert error is not None  # noqa: S101  see `migrate_all`
        raise error
    _deliver(report, machine, own, conditions, files, error)


def _check_single(options: MigrateOptions, names: tuple[str, ...], handing_over: list[str]) -> None:
    """Check that the plan is one migration, to back-ends of the other run."""
    for name in handing_over:
        raise OptionError(f"{name} keeps the VM's back-ends, and those end with --to")
    if len(names) > 1:
        raise OptionError(f"--to: the VM goes only once, and {len(names)} strategies were given")
    for name, unset in (("repeat", 1), ("network", "loopback"), ("via", "unix")):
        if getattr(options, name) != unset:
            raise OptionError(f"--{name} does not go with --to")


def _deliver(
    report: MigrationReport,
    machine: MachineOptions,
    own: MigrateOptions,
    conditions: Sequence[Gate],
    files: ReportFiles,
    error: Exception | None = None,
) -> None:
    """Print the report and write all files; an error has ended the run early.

    Raises:
        EmuError: a run failed, or a condition does not hold.
    """
    from emu.report.tables import show

    path = machine.json_file
    if not machine.quiet:
        show(report, report_stream(path), wide=own.wide)
    whole = {**report.to_json(), "command": command_line()}
    deliver(path, whole)
    deliver_migrations(own.openmetrics, [whole])
    files.deliver("migration_page", whole)
    if error is not None:
        raise error
    if not report.ok:
        raise EmuError(report.failure(shown=not machine.quiet))
    check(conditions, [("", whole)])
