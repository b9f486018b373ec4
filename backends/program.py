"""What the back-end programs have in common: their options, and their life.

They follow QEMU's conventions for back-end programs (docs/interop/vhost-user.rst, "Backend
program conventions"): ``--socket-path`` or ``--fd``, ``--print-capabilities``, no daemon, a
quick end at SIGTERM.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from backends.control import ControlOptions
from backends.durations import DurationError, parse_duration
from backends.image import ImageError
from backends.loop import Loop
from backends.pacing import Costs
from backends.server import DeviceServer, ServerError, inherit, listen
from backends.stats import StatsWriter
from backends.stop_policy import StopKind, StopPolicy

if TYPE_CHECKING:
    import socket

    from backends.virtio_device import VirtioDevice

F = TypeVar("F", bound=Callable[..., Any])
#: How help is asked for, and laid out.
CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
log = logging.getLogger("backends")


class ProgramError(click.ClickException):
    """The program cannot start; one line for the user."""

    exit_code = 1


def _duration(_context: click.Context, _option: click.Parameter, text: str) -> int:
    """Nanoseconds of an option's text."""
    try:
        return parse_duration(text)
    except DurationError as error:
        raise click.BadParameter(str(error)) from error


class Settings(NamedTuple):
    """The options that every back-end program takes."""

    socket_paths: tuple[str, ...]
    fd: int | None
    options: ControlOptions
    stats_file: str | None
    ready_fd: int | None

    @property
    def devices(self) -> int:
        """How many devices the program serves: one for each socket."""
        return max(len(self.socket_paths), 1)


_OPTIONS = (
    click.option(
        "--socket-path",
        "socket_paths",
        multiple=True,
        metavar="PATH",
        help="Listen there; once for each device.",
    ),
    click.option("--fd", type=int, metavar="N", help="Use this inherited socket instead."),
    click.option(
        "--print-capabilities", is_flag=True, help="Print what this program can do, as JSON."
    ),
    click.option(
        "--control",
        type=click.Choice(["per-device", "shared"]),
        default="per-device",
        show_default=True,
        help="Devices stop side by side, or one that stops keeps the others waiting.",
    ),
    click.option(
        "--stop-policy",
        type=click.Choice([kind.value for kind in StopKind]),
        default=StopKind.IMMEDIATE.value,
        show_default=True,
        help="What is waited for when a ring is stopped.",
    ),
    click.option(
        "--stop-time",
        callback=_duration,
        metavar="TIME",
        default="0",
        help="A device takes that long to stop.",
    ),
    click.option(
        "--cost-get-vring-base",
        callback=_duration,
        metavar="TIME",
        default="0",
        help="GET_VRING_BASE takes that long, for each ring.",
    ),
    click.option(
        "--cost-set-mem-table",
        callback=_duration,
        metavar="TIME",
        default="0",
        help="A memory table takes that long, for each device.",
    ),
    click.option("--stats-file", metavar="PATH", help="Keep live counters in this file."),
    click.option(
        "--ready-fd",
        type=int,
        metavar="N",
        help="Write a byte to this descriptor and close it when all sockets listen.",
    ),
)


def backend_options(command: F) -> F:
    """Gives a click command the options of `Settings`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def settings_from(options: dict[str, Any]) -> Settings:
    """Takes the options of `Settings` out of a command's keyword arguments.

    Raises:
        click.ClickException: they do not go together.
    """
    options.pop("print_capabilities")
    paths, fd = options.pop("socket_paths"), options.pop("fd")
    if bool(paths) == (fd is not None):
        raise click.UsageError("give either --socket-path or --fd")
    if len(set(paths)) != len(paths):
        raise click.UsageError("each device needs a --socket-path of its own")
    policy = StopPolicy(StopKind(options.pop("stop_policy")), options.pop("stop_time"))
    costs = Costs(options.pop("cost_get_vring_base"), options.pop("cost_set_mem_table"))
    control = ControlOptions(policy, costs, shared=options.pop("control") == "shared")
    return Settings(paths, fd, control, options.pop("stats_file"), options.pop("ready_fd"))


class Program:
    """The loops, devices and sockets of one program, and its end.

    A subclass makes the devices.

    Attributes:
        refreshes: SIGHUP has the devices look again at what lies behind them, and ends nothing.

    Raises:
        ProgramError: it cannot start; what was made until then is gone again.
    """

    refreshes = False

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._ended, self._end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._servers: list[DeviceServer] = []
        self._stack = ExitStack()
        self._crashed = False
        self._loops = [Loop(f"control-{n}") for n in range(_threads(settings))]
        try:
            self.stats = StatsWriter(settings.devices, settings.stats_file)
        except OSError as error:
            raise ProgramError(f"{settings.stats_file}: {error.strerror}") from error

    def make_device(self, number: int, name: str, loop: Loop) -> VirtioDevice:
        """The device of the socket with this number.

        Raises:
            ImageError, ProgramError: it cannot be had.
        """
        raise ProgramError(f"no device {number} ({name}) for {loop.name}")

    def loop_of(self, number: int) -> Loop:
        """The loop that serves the device with this number."""
        return self._loops[number % len(self._loops)]

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT, or until the front-end of ``--fd`` has gone."""
        # The descriptor is written to at once, whichever thread the signal hits.
        signal.set_wakeup_fd(self._end, warn_on_full_buffer=False)
        refresh = (signal.SIGHUP,) if self.refreshes else ()
        for signum in (signal.SIGTERM, signal.SIGINT, *refresh):
            signal.signal(signum, _noted)
        threading.excepthook = self._on_crash
        try:
            self._open()
            for loop in self._loops:
                loop.start()
            self._tell_ready()
            # What exists now will never be garbage, and nothing that the loops do makes cycles:
            # a collection in the middle of a stop would only cost time.
            gc.collect()
            gc.freeze()
            gc.disable()
            self._wait()
            if self._crashed:
                raise ProgramError("ended by an error of its own")
        except (ImageError, ServerError) as error:
            raise ProgramError(str(error)) from error
        finally:
            self._close()

    def end(self) -> None:
        """From any thread: have `run` return."""
        os.write(self._end, b"e")

    def close_extras(self) -> None:
        """What a subclass has besides its devices; called when all loops have ended."""

    def _open(self) -> None:
        raise_fd_limit()
        for number, (name, sock, path) in enumerate(self._sockets()):
            device = self.make_device(number, name, self.loop_of(number))
            self._servers.append(
                DeviceServer(
                    device,
                    sock,
                    self.settings.options,
                    path=path,
                    on_end=None if path else self.end,
                )
            )

    def _sockets(self) -> list[tuple[str, socket.socket, str | None]]:
        """Name, socket and path of each device; made before any device is."""
        if self.settings.fd is not None:
            return [(f"fd {self.settings.fd}", inherit(self.settings.fd), None)]
        sockets: list[tuple[str, socket.socket, str | None]] = []
        for path in self.settings.socket_paths:
            sock = listen(path)
            self._stack.callback(Path(path).unlink, missing_ok=True)
            self._stack.callback(sock.close)
            sockets.append((Path(path).name.removesuffix(".sock"), sock, path))
        return sockets

    def _tell_ready(self) -> None:
        fd = self.settings.ready_fd
        if fd is not None:
            try:
                os.write(fd, b"\n")
                os.close(fd)
            except OSError as error:
                raise ProgramError(f"--ready-fd {fd}: {error.strerror}") from error

    def _on_crash(self, crash: threading.ExceptHookArgs) -> None:
        """A thread has died: better no back-end than one that does not answer."""
        error = crash.exc_value
        log.critical("%s", error, exc_info=error)
        self._crashed = True
        self.end()

    def _wait(self) -> None:
        """Return at the first byte that is no SIGHUP: another signal's number, or `end`'s."""
        os.set_blocking(self._ended, True)
        while os.read(self._ended, 1) == bytes([signal.SIGHUP]):
            for server in self._servers:
                server.device.loop.post(server.device.refresh)

    def _close(self) -> None:
        for server in self._servers:
            server.hurry()
        stuck = [loop for loop in self._loops if not loop.stop()]
        self.close_extras()
        if not stuck:
            for server in self._servers:
                server.close()
            for loop in self._loops:
                loop.close()
        self._stack.close()
        self.stats.close()


def _noted(_signum: int, _frame: object) -> None:
    """A handler of our own, so that the signal does not end the program by itself."""


def raise_fd_limit() -> None:
    """A device has two descriptors for each ring: use what the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def run_command(
    command: click.Command,
    name: str,
    capabilities: dict[str, object],
    arguments: Sequence[str] | None = None,
) -> None:
    """Runs a program to its end and exits with its status; errors are one line on stderr."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if "--print-capabilities" in arguments:
        # Whatever the other options are, they do not count.
        click.echo(json.dumps(capabilities))
        sys.exit(0)
    logging.basicConfig(format=f"{name}: %(message)s", level=logging.WARNING)
    try:
        command.main(list(arguments), prog_name=name, standalone_mode=False)
    except click.ClickException as error:
        click.echo(f"{name}: {error.format_message()}", err=True)
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(130)


def _threads(settings: Settings) -> int:
    """How many threads the devices of a program need so that none waits for another.

    A stop that has to wait holds no thread, so one is enough, and Python would run one at a time
    anyway; but what a unit is made to cost is slept.
    """
    paced = any(settings.options.costs)
    return settings.devices if paced and not settings.options.shared else 1
