"""The command `emu`, with its subcommands."""

from __future__ import annotations

import importlib
import signal
from typing import Any, cast

import click
from click.shell_completion import CompletionItem

from backends import console_script
from emu import trace_events as _trace_events  # noqa: F401  --trace-events of all commands has them
from emu.commands.color_option import color_option
from emu.commands.command_group import CommandGroup, need_subcommand
from emu.errors import EmuError, SignalError
from vhost_user.deferred_signals import deferred_signals

#: Settings of `emu`, which all of its subcommands inherit.
CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}

#: Each is a command in the module of the same name, which is imported when it is used.
SUBCOMMANDS = {
    "attach": "Run a VM on back-ends that you have started.",
    "compare": "Compare two JSON documents.",
    "completion": "Print a script that completes commands in a shell.",
    "conform": "Test a back-end or a front-end for conformance.",
    "doctor": "Report what this host can do.",
    "migrate": "Migrate a VM live and compare strategies.",
    "report": "Make a page or a picture of a saved result.",
    "run": "Run a VM under load and report its requests.",
    "sweep": "Migrate VMs of several sizes and compare.",
    "tap": "Show the messages of other front-ends and back-ends.",
    "top": "Show what a running VM does, live.",
}

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


class _Emu(CommandGroup):
    """Imports a subcommand when it is used: `emu conform` needs no module of the VM.

    Ctrl-C and errors of the operating system are reported as all others; click itself would begin a
    new line at Ctrl-C, and end without a line at a broken pipe, whichever it is.
    """

    def list_commands(self, _ctx: click.Context) -> list[str]:
        return list(SUBCOMMANDS)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in SUBCOMMANDS:
            return None
        with deferred_signals():
            module = importlib.import_module(f"emu.commands.{cmd_name}")
        return cast("click.Command", getattr(module, cmd_name))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The subcommands and options; no subcommand is imported for it."""
        found = [
            CompletionItem(name, help=text)
            for name, text in SUBCOMMANDS.items()
            if name.startswith(incomplete)
        ]
        return [*found, *click.Command.shell_complete(self, ctx, incomplete)]

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise SignalError(signal.SIGINT, "SIGINT") from None
        except OSError as error:
            raise EmuError(console_script.describe(error)) from error


@click.group(cls=_Emu, help=HELP, context_settings=CONTEXT, invoke_without_command=True)
@color_option
@click.version_option(package_name="vhost-emu", prog_name="emu")
@click.pass_context
def emu(context: click.Context) -> None:
    """Print the help, as a usage error, if no subcommand is given."""
    need_subcommand(context)
