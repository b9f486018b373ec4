"""The command `emu`, with its subcommands."""

from __future__ import annotations

import click

from emu.commands.migrate import migrate
from emu.commands.options import CONTEXT
from emu.commands.run import run

HELP = """Run and live-migrate VMs whose devices are real vhost-user back-ends.

The VM is emulated; the protocol, the sockets, the rings, the eventfds and the back-end programs
are real.

\b
Examples:
  emu migrate                                 the RFC's VM, three strategies, one table
  emu migrate --net 2x4 --blk 2x2 --vcpus 4 --memory 1G
  emu run --net 2x4 --blk 2x2 --vcpus 4 --memory 1G --for 10s
"""


@click.group(help=HELP, context_settings=CONTEXT)
@click.version_option(package_name="vhost-emu", prog_name="emu")
def emu() -> None:
    """The command."""


emu.add_command(migrate)
emu.add_command(run)
