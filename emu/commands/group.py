"""The command `emu`, with its subcommands."""

from __future__ import annotations

import signal
from typing import Any

import click

from emu.commands.attach import attach
from emu.commands.conform import conform
from emu.commands.doctor import doctor
from emu.commands.migrate import migrate
from emu.commands.options import CONTEXT
from emu.commands.run import run
from emu.commands.sweep import sweep
from emu.errors import SignalError

HELP = """Run and live-migrate VMs whose devices are real vhost-user back-ends.

The VM is emulated; the protocol, the sockets, the rings, the eventfds and the back-end programs
are real.

\b
Examples:
  emu migrate           the RFC's VM, three strategies, one table
  emu migrate --net 2x4 --blk 2x2 --vcpus 4 --memory 1G
  emu sweep             how the blackout grows with the number of rings
  emu run --net 2x4 --blk 2x2 --vcpus 4 --memory 1G --for 10s
  emu doctor            what this host can do
"""


class _Emu(click.Group):
    """Has Ctrl-C end in the same way before a VM is started as afterwards.

    Click itself would begin a new line first.
    """

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise SignalError(signal.SIGINT, "SIGINT") from None


@click.group(cls=_Emu, help=HELP, context_settings=CONTEXT, invoke_without_command=True)
@click.version_option(package_name="vhost-emu", prog_name="emu")
@click.pass_context
def emu(context: click.Context) -> None:
    """The command; without a subcommand it is a usage error that the whole help answers."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help(), err=True)
        context.exit(2)


emu.add_command(attach)
emu.add_command(conform)
emu.add_command(doctor)
emu.add_command(migrate)
emu.add_command(run)
emu.add_command(sweep)
