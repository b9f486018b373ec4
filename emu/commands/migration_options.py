"""Options of `emu migrate` that say how a migration goes, beside the VM itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from backends.options import FilePath, option_group
from emu.commands import validate
from emu.config.migration_parameters import MAX_STREAMS, ON_NO_CONVERGE, Parameters
from emu.errors import OptionError
from emu.strategies.base import MAX_PROCESSES, MAX_THREADS
from emu.strategies.unsafe import EITHER, MODES

if TYPE_CHECKING:
    from pathlib import Path

plugin_option = click.option(
    "--plugin",
    "plugins",
    type=FilePath(),
    multiple=True,
    metavar="FILE",
    help="A Python file with further strategies (docs/explanation/strategies.md). May be given "
    "several times.",
)

_OPTIONS = (
    plugin_option,
    click.option(
        "--threads",
        type=click.IntRange(1, MAX_THREADS),
        metavar="N",
        help="Size of the pool of the strategy 'threads'. [default: 8]",
    ),
    click.option(
        "--processes",
        type=click.IntRange(1, MAX_PROCESSES),
        metavar="N",
        help="Size of the pool of the strategy 'processes'. [default: 2]",
    ),
    click.option(
        "--unsafe",
        type=click.Choice(MODES),
        is_flag=False,
        flag_value=EITHER,
        help="Run 'threads' with one of the two failures that the RFC describes; the failure is "
        "detected and the migration rolled back. Without a value, either.",
    ),
    click.option(
        "--check-locks",
        is_flag=True,
        help="Fail if locks are taken in two orders that could deadlock; the error names both "
        "places in the code.",
    ),
    click.option(
        "--deadline",
        default="10s",
        show_default=True,
        metavar="TIME",
        help="How long a device, or the other side, may take for one step.",
    ),
    click.option(
        "--strict-downtime",
        is_flag=True,
        help="Fail when the gap in the guest's heartbeat exceeds the sum of the accounted "
        "downtime, the age of the last beat and the error of the clocks "
        "(docs/explanation/migration.md); by default it is only reported.",
    ),
    click.option(
        "--downtime-limit",
        default="300ms",
        show_default=True,
        metavar="TIME",
        help="Switch over when the expected downtime is not longer than this.",
    ),
    click.option(
        "--max-bandwidth",
        default="0",
        metavar="SIZE",
        help="Limit of pre-copy in bytes per second, such as 100M; 0 is no limit.",
    ),
    click.option(
        "--streams",
        type=click.IntRange(1, MAX_STREAMS),
        default=1,
        show_default=True,
        metavar="N",
        help="Sockets that send memory in parallel (multifd in QEMU).",
    ),
    click.option(
        "--auto-converge",
        is_flag=True,
        help="Throttle the guest when it writes faster than memory can be sent.",
    ),
    click.option(
        "--on-no-converge",
        type=click.Choice(ON_NO_CONVERGE),
        default="switch",
        show_default=True,
        help="What to do when the downtime limit cannot be met.",
    ),
)


#: Decorator: the options of `MigrationOptions`.
migration_options = option_group(*_OPTIONS)


@dataclass(frozen=True, slots=True)
class MigrationOptions:
    """The values of `migration_options`."""

    plugins: tuple[Path, ...]
    threads: int | None
    processes: int | None
    unsafe: str | None
    check_locks: bool
    deadline: str
    strict_downtime: bool
    downtime_limit: str
    max_bandwidth: str
    streams: int
    auto_converge: bool
    on_no_converge: str


def parameters(options: MigrationOptions) -> Parameters:
    """The parameters of each migration.

    Raises:
        PreflightError: a value is invalid.
    """
    chosen = Parameters(
        downtime_limit=validate.duration("--downtime-limit", options.downtime_limit) // 1_000_000,
        max_bandwidth=validate.size("--max-bandwidth", options.max_bandwidth),
        auto_converge=options.auto_converge,
        on_no_converge=options.on_no_converge,
        timeout=validate.deadline(options.deadline),
        check_locks=options.check_locks,
        streams=options.streams,
    )
    if 0 < chosen.max_bandwidth < chosen.least_bandwidth:
        raise OptionError(
            f"--max-bandwidth {options.max_bandwidth}: a page would take longer than the "
            f"destination waits for it; with --deadline {options.deadline} the least is "
            f"{chosen.least_bandwidth} bytes a second"
        )
    return chosen


def strategy_options(options: MigrationOptions) -> dict[str, int | str]:
    """The options of strategies that the user has set."""
    chosen = {
        "threads": options.threads,
        "processes": options.processes,
        "unsafe": options.unsafe,
    }
    return {name: value for name, value in chosen.items() if value is not None}
