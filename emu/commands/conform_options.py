"""The options of `emu conform`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from backends.options import FilePath, option_group
from emu.commands.completion import cases
from emu.commands.json_output import json_option
from emu.commands.openmetrics_option import openmetrics_option
from emu.commands.report_option import REPORT_OPTIONS, ReportFiles
from vhost_user_conformance.errors import OptionError
from vhost_user_conformance.model.case import BACK_END, FRONT_END
from vhost_user_conformance.target import (
    DEVICES,
    DIALECTS,
    LONGEST_PATIENCE,
    LONGEST_TOTAL,
    PATIENCE,
    SHORTEST_PATIENCE,
    SHORTEST_TOTAL,
    shard_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class ConformOptions:
    """The values of `conform_options`.

    ``scratch`` is an option for back-ends only, and ``destination`` for front-ends.
    """

    path: Path | None
    command: str | None
    device: str | None
    only: tuple[str, ...]
    shard: tuple[int, int] | None
    listed: bool
    json_file: Path | None
    junitxml: Path | None
    openmetrics: Path | None
    known: Path | None
    write_known: Path | None
    strict: bool
    dialect: str
    patience: float
    total_time: float | None
    verbose: bool
    quiet: bool
    report_file: Path | None
    png_file: Path | None
    scratch: bool = False
    destination: str | None = None

    @property
    def files(self) -> ReportFiles:
        """Where the page and the picture go."""
        return ReportFiles(self.report_file, self.png_file)


class _Seconds(click.FloatRange):
    """A range of numbers without NaN."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        seconds: float = super().convert(value, param, ctx)
        if math.isnan(seconds):
            self.fail(f"{value} is not a number.", param, ctx)
        return seconds


def _shard(
    _context: click.Context, _option: click.Parameter, text: str | None
) -> tuple[int, int] | None:
    """A number and the number of parts, such as ``2/3``."""
    if text is None:
        return None
    try:
        return shard_of(text)
    except OptionError as error:
        raise click.BadParameter(f"{error}.") from None


_SOCKET = {
    BACK_END: "Path of the socket where the back-end listens.",
    FRONT_END: "Path of the socket where the front-end is to connect.",
}
_EXEC = {
    BACK_END: "Start this program, and start it again when it ends; {socket} is the socket's path.",
    FRONT_END: "Start this program for each session; {socket} is the socket's path, {qmp} the path "
    "where it has to serve QMP.",
}
_DEVICE = {
    BACK_END: "Device class. Without it no case sends requests in a ring.",
    FRONT_END: "Device class that the suite's back-end has. Without it no ring is served.",
}
_COMMON = (
    click.option(
        "--shard",
        callback=_shard,
        metavar="K/N",
        help="Run only the K-th of N parts of the cases, such as 2/3. Each case is in one part.",
    ),
    click.option("--list", "listed", is_flag=True, help="List the cases and run none."),
    json_option("the verdicts, or the list,"),
    click.option(
        "--junitxml",
        type=FilePath(),
        metavar="FILE",
        help="Write the verdicts as JUnit XML.",
    ),
    openmetrics_option,
    click.option(
        "--known",
        type=FilePath(),
        metavar="FILE",
        help="A baseline, the ids of the cases that are known to fail: the exit status is 0 if no "
        "other case fails, and each of these still fails.",
    ),
    click.option(
        "--write-known",
        type=FilePath(),
        metavar="FILE",
        help="Write the baseline of this run; failures then do not change the exit status. "
        "Reasons, and cases that are not run, are taken from --known.",
    ),
    click.option(
        "--strict", is_flag=True, help="Exit with status 1 also if a case ended as ERROR."
    ),
    click.option(
        "--dialect",
        type=click.Choice(DIALECTS),
        default=DIALECTS[0],
        show_default=True,
        help="Whose numbers of protocol features and messages to use where implementations differ.",
    ),
    click.option(
        "--patience",
        type=_Seconds(SHORTEST_PATIENCE, LONGEST_PATIENCE),
        default=PATIENCE,
        show_default=True,
        metavar="SECONDS",
        help="Timeout for each answer. It grows, up to five times, if the peer has been slow or "
        "waits for a processor.",
    ),
    click.option(
        "--total-time",
        type=_Seconds(SHORTEST_TOTAL, LONGEST_TOTAL),
        metavar="SECONDS",
        help="End the run after this time, and report the verdicts so far. By default there is no "
        "limit.",
    ),
    click.option("-v", "--verbose", is_flag=True, help="Also list the OBSERVED cases."),
    click.option("-q", "--quiet", is_flag=True, help="Print only FAIL and ERROR."),
)
_SCRATCH = click.option(
    "--scratch",
    is_flag=True,
    help="Permit the cases to overwrite the contents of the disk that the back-end serves. Without "
    "this option the disk must be all zeroes, and have at most 1 GiB.",
)
_DESTINATION = click.option(
    "--destination",
    metavar="COMMAND",
    help="Start this program to migrate the front-end's VM to it; {socket} is the socket of its "
    "back-end, {incoming} the unix socket where it has to wait for the VM. Without this option no "
    "case migrates.",
)


def conform_options(role: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorator: the options of `emu conform` for this role, ``back-end`` or ``front-end``."""
    return option_group(
        click.option(
            "--socket",
            "path",
            type=FilePath(),
            metavar="PATH",
            help=_SOCKET[role],
        ),
        click.option("--exec", "command", metavar="COMMAND", help=_EXEC[role]),
        click.option("--device", type=click.Choice(DEVICES), help=_DEVICE[role]),
        _SCRATCH if role == BACK_END else _DESTINATION,
        click.option(
            "--only",
            multiple=True,
            shell_complete=cases(role),
            metavar="ID|AREA",
            help="Run only this case, or the cases of this area; may be given several times.",
        ),
        *_COMMON,
        *REPORT_OPTIONS,
    )
