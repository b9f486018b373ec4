"""The command-line options that every back-end program takes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import click

from backends.control import ControlOptions
from backends.durations import DurationError, parse_duration
from backends.pacing import InjectedLatency
from backends.stop_policy import StopKind, StopPolicy
from vhost_user.virtio.ring_limits import ANY, RingLimits

F = TypeVar("F", bound=Callable[..., Any])
#: What can be a descriptor: a C int that is not negative.
DESCRIPTOR = click.IntRange(0, (1 << 31) - 1)
#: Settings of every command: how help is asked for, and laid out.
CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class NonEmptyPath(click.Path):
    """A path that has at least one character: a shell's variable that is not set has none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """See `click.ParamType.convert`."""
        if value == "":
            self.fail("the path is empty", param, ctx)
        return super().convert(value, param, ctx)


class FilePath(NonEmptyPath):
    """The path of a file or a directory, as a `pathlib.Path`.

    The empty string is refused: as a `Path` it would be the current directory.

    Args:
        options: of `click.Path`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(path_type=Path, **options)


class PathText(NonEmptyPath):
    """The path of a socket or a file, as a string: it is printed as it was given."""

    def __init__(self) -> None:
        super().__init__(path_type=str, readable=False)


def option_group(*options: Callable[[F], F]) -> Callable[[F], F]:
    """A decorator that adds these options to a click command, in this order."""

    def add(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return add


class Settings(NamedTuple):
    """The options that every back-end program takes."""

    socket_paths: tuple[str, ...]
    fd: int | None
    options: ControlOptions
    stats_file: str | None
    ready_fd: int | None
    #: None: the program's own default, and a line on stderr where there can be none.
    sandbox: bool | None = None

    @property
    def devices(self) -> int:
        """How many devices the program serves: one for each socket."""
        return max(len(self.socket_paths), 1)

    @property
    def each(self) -> str:
        """The option of which each occurrence is a device."""
        return "each --socket-path" if self.socket_paths else "--fd"


def _nanoseconds(_context: click.Context, _option: click.Parameter, text: str) -> int:
    try:
        return parse_duration(text)
    except DurationError as error:
        raise click.BadParameter(str(error)) from error


def _time_option(name: str, help_text: str) -> Callable[[F], F]:
    return click.option(
        name, callback=_nanoseconds, metavar="TIME", default="0", show_default=True, help=help_text
    )


def rings_option(
    help_text: str, *, plural: str = "devices", limits: RingLimits = ANY
) -> Callable[[F], F]:
    """The option ``--num-queues``: rings of each device, one unit by default.

    Args:
        help_text: its help, with a full stop.
        plural: the term for the devices, in messages.
        limits: how many rings a device may have.
    """

    def check(_context: click.Context, _option: click.Parameter, rings: int) -> int:
        check_rings(rings, plural, limits)
        return rings

    return click.option(
        "--num-queues",
        type=int,
        callback=check,
        default=limits.unit,
        metavar="N",
        help=f"{help_text}  [default: {limits.unit}; at most {limits.most}]",
    )


def check_rings(rings: int, plural: str, limits: RingLimits) -> None:
    """Check ``--num-queues``.

    Raises:
        click.UsageError: the devices, in messages ``plural``, cannot have so many rings.
    """
    if why_not := limits.why_not(rings, plural):
        raise click.UsageError(f"--num-queues {rings}: {why_not}")


backend_options = option_group(
    click.option(
        "--socket-path",
        "socket_paths",
        multiple=True,
        type=PathText(),
        metavar="PATH",
        help="Listen on this unix socket; once for each device.",
    ),
    click.option(
        "--fd", type=DESCRIPTOR, metavar="N", help="Use this inherited unix socket instead."
    ),
    click.option(
        "--print-capabilities", is_flag=True, help="Print the program's capabilities as JSON."
    ),
    click.option(
        "--control",
        type=click.Choice(["per-device", "shared"]),
        default="per-device",
        show_default=True,
        help="The devices of this program stop in parallel, or one after the other.",
    ),
    click.option(
        "--stop-policy",
        type=click.Choice([kind.value for kind in StopKind]),
        default=StopKind.IMMEDIATE.value,
        show_default=True,
        help="What a device completes before it answers GET_VRING_BASE: the requests that it has "
        "begun (immediate; tick checks each millisecond, as SPDK does), or all available ones "
        "(drain).",
    ),
    _time_option("--stop-time", "A device takes at least that long to stop."),
    _time_option("--cost-get-vring-base", "GET_VRING_BASE takes that long, for each ring."),
    _time_option("--cost-set-mem-table", "SET_MEM_TABLE takes that long, for each device."),
    click.option(
        "--stats-file",
        type=PathText(),
        metavar="PATH",
        help="Keep live counters in this file.",
    ),
    click.option(
        "--ready-fd",
        type=DESCRIPTOR,
        metavar="N",
        help="Write a byte to this descriptor and close it when all sockets listen.",
    ),
    click.option(
        "--sandbox/--no-sandbox",
        default=None,
        help="Open no file and start no process once the sockets listen; with --sandbox it is an "
        "error if that is not possible.  [default: a sandbox if possible; none for "
        "vhost-emu-serve]",
    ),
    click.version_option(package_name="vhost-emu"),
)


def settings_from(options: dict[str, Any]) -> Settings:
    """Takes the options of `backend_options` out of a command's keyword arguments.

    Raises:
        click.ClickException: they do not go together.
    """
    options.pop("print_capabilities")
    paths, fd = options.pop("socket_paths"), options.pop("fd")
    if bool(paths) == (fd is not None):
        raise click.UsageError("use either --socket-path or --fd")
    if len(set(paths)) != len(paths):
        raise click.UsageError("each device needs a --socket-path of its own")
    policy = StopPolicy(StopKind(options.pop("stop_policy")), options.pop("stop_time"))
    latency = InjectedLatency(options.pop("cost_get_vring_base"), options.pop("cost_set_mem_table"))
    control = ControlOptions(policy, latency, shared=options.pop("control") == "shared")
    return Settings(
        paths,
        fd,
        control,
        options.pop("stats_file"),
        options.pop("ready_fd"),
        options.pop("sandbox"),
    )
