"""`emu run`: runs a VM under load until Ctrl-C, and shows its counters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from backends.trace_options import trace_options
from emu.commands import validate
from emu.commands.between_options import (
    BetweenOptions,
    between_options,
    check_machine,
    endpoint_of,
    security_of,
)
from emu.commands.color_option import color_option
from emu.commands.json_output import deliver, report_stream
from emu.commands.migration_options import plugin_option
from emu.commands.option_values import values_of
from emu.commands.options import (
    MachineOptions,
    device_options,
    machine_options,
    machine_plan,
)
from emu.commands.qmp_option import qmp_option, served_monitor
from emu.commands.trace_option import trace_option
from emu.errors import EmuError, OptionError
from emu.report import progress

if TYPE_CHECKING:
    from pathlib import Path

    from emu.report.load_results import LoadReport


@dataclass(frozen=True, slots=True)
class RunOptions:
    """The values of the options that only `emu run` has."""

    duration: str | None
    incoming: str | None
    qmp: str | None


HELP = """Run a VM with its back-ends under load, with a live table, until Ctrl-C.

At the end the command prints the totals, and compares the guest's request log with the back-ends'
counters and the disks' contents. The status is 0 only when no request was lost, and nothing
was duplicated or corrupted.

\b
Examples:
  emu run --net 2x4 --blk 2x2 --vcpus 4 --memory 1G
  emu run --for 10s --json load.json
  emu run --net 2x4 --blk 2x2 --vcpus 4 --memory 1G --qmp unix:qmp.sock

With --incoming the command waits for a VM that `emu migrate --to` sends from another terminal or
machine (docs/how-to/between-machines.md). Both commands must describe the same VM and use the same
images.

\b
  emu run --incoming tcp:127.0.0.1:4444 --images /tmp/images --vm small.toml
"""


@click.command(help=HELP, short_help="Run a VM under load and report its requests.")
@click.option("--for", "duration", metavar="TIME", help="End after this time, such as 10s.")
@click.option(
    "--incoming",
    metavar="URI",
    help="Boot no guest: wait at tcp:ADDRESS:PORT or unix:PATH for a VM, and run it; 'defer' waits "
    "for QMP's migrate-incoming.",
)
@qmp_option
@between_options
@plugin_option
@device_options
@machine_options
@trace_options
@trace_option
@color_option
def run(**options: Any) -> None:
    """Validate the options, run, and print the report."""
    from emu.migration.endpoint import StreamSecurity
    from emu.orchestrator.images_lock import Role
    from emu.orchestrator.run_under_load import LoadRun
    from emu.orchestrator.supervisor import Supervisor
    from emu.report import live_view
    from emu.strategies import registry

    machine = MachineOptions.of(options)
    own = values_of(RunOptions, options)
    text = own.duration
    seconds = None if text is None else validate.duration("--for", text) / 1e9
    if seconds == 0:
        raise OptionError("--for 0: give a time that is longer")
    between = values_of(BetweenOptions, options)
    if own.incoming is None and own.qmp is not None:
        endpoint = None
        security = security_of("--qmp", between, listens=False)  # for QMP's migrate
    else:
        endpoint = endpoint_of("--incoming", own.incoming, between, listens=True)
        security = StreamSecurity()
    for plugin in machine.plugins:
        registry.load_file(plugin.absolute())
    monitor = served_monitor(own.qmp)
    if own.incoming == "defer" and monitor is None:
        raise OptionError("--incoming defer needs --qmp, whose migrate-incoming has the address")
    plan = machine_plan(machine)
    check_machine("--incoming", plan, endpoint)
    quiet = machine.quiet
    stream = report_stream(machine.json_file)
    show = progress.make(quiet=quiet)
    view = live_view.make(stream, quiet=quiet)
    # With a monitor the VM may migrate to another run, which then has the images, too.
    alone = Role.ALONE if monitor is None else Role.SOURCE
    role = alone if endpoint is None else Role.DESTINATION
    with show, Supervisor(plan, show, sides=1, role=role) as supervisor, view:
        report = LoadRun(supervisor, view, seconds, endpoint, monitor, security).run()
    if not quiet:
        live_view.show_report(report, stream)
    _deliver(report, machine.json_file)


def _deliver(report: LoadReport, path: Path | None) -> None:
    deliver(path, report.to_json())
    if report.departed:
        return
    if not report.integrity.clean:
        raise EmuError(report.integrity.failures())
    if report.did_nothing:
        raise EmuError("the guest has completed no request: give it more time")
