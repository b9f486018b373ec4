"""`emu top`: what a running VM does, live."""

from __future__ import annotations

import json
import signal
import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING

import click

from emu.commands import completion, validate
from emu.commands.color_option import color_option
from emu.commands.qmp_option import monitor_path
from emu.errors import OptionError, SignalError

if TYPE_CHECKING:
    from collections.abc import Callable

    from emu.orchestrator.watched_monitor import WatchedMonitor
    from emu.report.top_view import TopSample

HELP = """Show the devices, rings, rates and the migration of a running VM, until Ctrl-C.

ADDRESS is the value of --qmp of the VM's `emu run` or `emu attach`: unix:PATH, or the path alone.
The VM does not wait for this command, and other clients can use QMP at the same time.

\b
Examples:
  emu run --net 2x4 --blk 2x2 --vcpus 4 --memory 1G --qmp unix:qmp.sock
  emu top unix:qmp.sock
  emu top unix:qmp.sock --once --json
"""


@click.command(help=HELP, short_help="Show what a running VM does, live.")
@click.argument("address", metavar="ADDRESS", shell_complete=completion.sockets)
@click.option("--once", is_flag=True, help="Print one table, with the rates of one interval.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one line for each sample.")
@click.option(
    "--interval", default="1s", show_default=True, metavar="TIME", help="Time between samples."
)
@color_option
def top(address: str, interval: str, *, once: bool, as_json: bool) -> None:
    """Sample the monitor, and print."""
    from emu.orchestrator.signals import SignalWatcher
    from emu.orchestrator.watched_monitor import WatchedMonitor

    seconds = validate.duration("--interval", interval) / 1e9
    if not seconds:
        raise OptionError("--interval 0: give a time that is longer")
    path = monitor_path(address, name="")
    if path is None:
        raise OptionError("give the address of a monitor")
    with SignalWatcher() as watcher:
        try:
            with WatchedMonitor(path, watcher) as monitor:
                if as_json:
                    _watch(monitor, seconds, _print_json, once=once)
                else:
                    _show(monitor, address, seconds, once=once)
        except SignalError as end:
            # Ctrl-C is how the command is to end.
            if once or end.signum not in (signal.SIGINT, signal.SIGTERM):
                raise


def _print_json(sample: TopSample, before: TopSample | None) -> None:
    click.echo(json.dumps(sample.to_json(before), separators=(",", ":")))


def _show(monitor: WatchedMonitor, address: str, seconds: float, *, once: bool) -> None:
    """Print tables; on a terminal, one that is drawn again."""
    from emu.report.top_view import view
    from vhost_user.console import console_for
    from vhost_user.live_region import LiveRegion

    console = console_for(sys.stdout)
    changes = console.is_terminal and not console.is_dumb_terminal
    live = LiveRegion(console, keeps_last=True) if changes and not once else None

    def show(sample: TopSample, before: TopSample | None) -> None:
        height = None if live is None else console.height
        shown = view(address, sample, before, width=console.width, height=height)
        if live is None:
            console.print(shown)
        else:
            live.show(shown)

    with live or nullcontext():
        _watch(monitor, seconds, show, once=once)


def _watch(
    monitor: WatchedMonitor,
    seconds: float,
    show: Callable[[TopSample, TopSample | None], None],
    *,
    once: bool,
) -> None:
    """Sample and show, once or for ever. The first sample has no rates; ``once`` shows the next."""
    before = monitor.sample()
    if not once:
        show(before, None)
    while True:
        monitor.pause(seconds)
        sample = monitor.sample()
        show(sample, before)
        if once:
            return
        before = sample
