"""`emu doctor`: features and limits of this host, with advice on what is missing."""

from __future__ import annotations

import sys

import click

from emu.commands.color_option import color_option
from emu.errors import EmuError

HELP = """Report what this host has for a VM: KVM, limits, namespaces, memory.

The command changes nothing and needs no privileges. For each thing that is missing it prints which
option or program needs it, and how to get it. The status is 1 if no VM can run without it.
"""


@click.command(help=HELP, short_help="Report what this host can do.")
@color_option
def doctor() -> None:
    """Check the host, and print the findings."""
    from rich.table import Table

    from emu.commands.host_checks import examine
    from vhost_user.console import console_for

    findings = examine()
    table = Table(show_edge=False, pad_edge=False, box=None)
    table.add_column("")
    table.add_column("what", no_wrap=True)
    table.add_column("here")
    for finding in findings:
        mark = "ok" if finding.good else "MISSING" if finding.needed else "-"
        table.add_row(mark, finding.what, finding.here)
        if not finding.good and finding.advice:
            table.add_row("", "", f"-> {finding.advice}")
    console_for(sys.stdout).print(table)
    lacking = [finding.what for finding in findings if finding.needed and not finding.good]
    if lacking:
        raise EmuError(f"no VM can run here without {', '.join(lacking)}")
