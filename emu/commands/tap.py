"""`emu tap`: a proxy between front-ends and back-ends that run already."""

from __future__ import annotations

import shlex
import signal
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Self, TextIO

import click

from backends.options import FilePath, PathText
from backends.trace_options import trace_options
from emu.commands import validate
from emu.commands.color_option import color_option
from emu.commands.json_output import is_stdout
from emu.commands.option_values import values_of
from emu.commands.report_option import ReportFiles, command_line, report_options
from emu.errors import EmuError, OptionError, SignalError
from emu.tap.last_messages import Cause
from emu.tap.outputs import STDOUT, Last, Logs
from emu.tap.standard_output import without_waiting
from vhost_user import descriptor_table
from vhost_user.temporary_directory import TemporaryDirectory

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from emu.orchestrator.signals import SignalWatcher
    from emu.tap.outputs import Outputs
    from emu.tap.proxy import Pair, Proxy

#: Messages that --last holds at most; a message takes about 1 KiB.
MAX_LAST = 1_000_000

HELP = """Forward messages between vhost-user front-ends and back-ends, and show them.

The tap listens at a socket, to which the front-end connects, and for each connection it connects to
the back-end's socket. Bytes and descriptors are forwarded unchanged, also on the back-end channel;
guest memory, kicks and calls do not pass through the tap. When one side disconnects, or the tap
ends, the other side sees a plain disconnect.

\b
Examples:
  emu tap --listen /tmp/tap.sock --connect /run/disk.sock
  emu tap --listen /tmp/tap.sock --connect /run/disk.sock --text
  emu tap --listen /tmp/tap.sock --connect /run/disk.sock --pcap - | \\
      wireshark -k -i - -X lua_script:<(emu tap --dissector)
  emu tap --listen /tmp/tap.sock --connect /run/disk.sock --text log --last 10000
  emu tap --pair /tmp/a.sock:/run/a.sock --pair /tmp/b.sock:/run/b.sock --report tap.html
  emu tap --listen /tmp/tap.sock --connect /tmp/disk.sock \\
      --exec 'vhost-emu-blk --socket-path {socket} --blk-file disk.img'
"""


@dataclass(frozen=True, slots=True)
class TapOptions:
    """The values of the options."""

    listen: tuple[str, ...]
    connect: tuple[str, ...]
    pair: tuple[str, ...]
    reverse: bool
    program: str | None
    wait: str
    text: Path | None
    json_file: Path | None
    pcap: Path | None
    trace: Path | None
    last: int | None
    dump_on: tuple[str, ...]
    duration: str | None
    quiet: bool

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Self:
        """From the options of the command."""
        return values_of(cls, options)


def _print_dissector(context: click.Context, _option: click.Parameter, value: object) -> None:
    if value:
        click.echo(files("emu.tap").joinpath("vhost_user.lua").read_text("utf-8"), nl=False)
        context.exit()


@click.command(
    help=HELP,
    short_help="Show the messages of other front-ends and back-ends.",
)
@click.option(
    "--listen",
    multiple=True,
    type=PathText(),
    metavar="PATH",
    help="Socket that the front-end uses; once for each device.",
)
@click.option(
    "--connect",
    multiple=True,
    type=PathText(),
    metavar="PATH",
    help="Socket of the back-end; once for each --listen.",
)
@click.option(
    "--pair",
    multiple=True,
    metavar="PATH:PATH",
    help="The paths of --listen and --connect in one option; once for each device.",
)
@click.option(
    "--reverse",
    is_flag=True,
    help="The front-end listens at --connect, and the back-end connects to --listen.",
)
@click.option(
    "--exec",
    "program",
    metavar="COMMAND",
    help="Start the back-end, too, and end it with the tap; {socket} is the path of --connect.",
)
@click.option(
    "--wait",
    default="5s",
    show_default=True,
    metavar="TIME",
    help="How long an accepted connection waits for the other side to listen.",
)
@click.option(
    "--text",
    type=FilePath(),
    is_flag=False,
    flag_value="-",
    metavar="[FILE]",
    help="Write a line for each message, to stdout without a FILE.",
)
@click.option(
    "--json",
    "json_file",
    type=FilePath(),
    is_flag=False,
    flag_value="-",
    metavar="[FILE]",
    help="Write a JSON object for each message, to stdout without a FILE.",
)
@click.option(
    "--pcap",
    type=FilePath(),
    metavar="FILE",
    help="Write the messages as pcapng, for Wireshark; to stdout if FILE is -.",
)
@click.option(
    "--trace",
    type=FilePath(),
    metavar="FILE",
    help="Write requests with their replies, stops and starts to a file for ui.perfetto.dev "
    "(Chrome trace event format).",
)
@click.option(
    "--last",
    type=click.IntRange(1, MAX_LAST),
    metavar="N",
    help="Hold the last N messages in memory, and write them to the logs only when an event of "
    "--dump-on occurs.",
)
@click.option(
    "--dump-on",
    type=click.Choice([str(cause) for cause in Cause]),
    multiple=True,
    help="When the messages of --last are written; may be given several times.  [default: error]",
)
@click.option(
    "--dissector",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_dissector,
    help="Print the Wireshark dissector (Lua) for the files of --pcap, and exit.",
)
@click.option("--for", "duration", metavar="TIME", help="End after this time, such as 10s.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
@report_options
@trace_options
@color_option
def tap(**options: Any) -> None:
    """Check the options, and forward until a signal comes or the time is over."""
    from emu.orchestrator.signals import SignalWatcher
    from emu.tap.outputs import Outputs
    from emu.tap.pairs import pairs_of
    from emu.tap.proxy import Proxy
    from emu.tap.summary import Summary, described

    own = TapOptions.of(options)
    pairs = pairs_of(own.listen, own.connect, own.pair, reverse=own.reverse)
    patience = validate.duration("--wait", own.wait) / 1e9
    text = own.duration
    seconds = None if text is None else validate.duration("--for", text) / 1e9
    commands = _commands(own.program, pairs)
    logs, last = _logs(own), _last(own)
    validate.binary_output("--pcap", own.pcap)
    files = values_of(ReportFiles, options)
    summary = Summary() if files else None
    descriptor_table.raise_limit()
    descriptor_table.reserve()
    with (
        SignalWatcher() as watcher,
        _started(commands, watcher),
        without_waiting(),
        Outputs(logs, pairs, *_streams(own, logs), _report, last, summary) as outputs,
        Proxy(pairs, outputs.reader.take, _report, patience) as proxy,
    ):
        if not own.quiet:
            for pair in pairs:
                _report(f"{pair.name}: listening at {pair.listen} for {pair.connect}")
        end = _forward(proxy, outputs, watcher, seconds)
    if not own.quiet:
        _report(f"{end}: {outputs.traffic.summary()}")
    if summary is not None:
        whole = {**summary.document(described(pairs)), "command": command_line()}
        files.deliver("tap_page", whole)
    if outputs.failures:
        raise EmuError("; ".join(outputs.failures))


def _streams(options: TapOptions, logs: Logs) -> tuple[TextIO | None, TextIO | None]:
    """The terminal for the table of devices, and the stream for stops and starts."""
    if options.quiet:
        return None, None
    view = STDOUT not in logs and sys.stdout.isatty()
    return sys.stdout if view else None, sys.stderr


def _logs(options: TapOptions) -> Logs:
    """The files of the logs.

    Raises:
        OptionError: two of them have the same name.
    """
    values = (options.text, options.json_file, options.pcap, options.trace)
    given = [
        None if path is None else STDOUT if is_stdout(path) else path.absolute() for path in values
    ]
    named = [path for path in given if path is not None]
    if len(set(named)) < len(named):
        raise OptionError("--text, --json, --pcap and --trace cannot write to the same file")
    for field, path in zip(Logs._fields, values, strict=True):
        validate.output_file(f"--{field}", path, takes_stdout=True)
    return Logs(*given)


def _last(options: TapOptions) -> Last | None:
    """The option --last with its causes.

    Raises:
        OptionError: there is no log, or --dump-on is without --last.
    """
    if options.last is None:
        if options.dump_on:
            raise OptionError("--dump-on needs --last N")
        return None
    if _logs(options) == Logs():
        raise OptionError("--last needs a log: --text, --json, --pcap or --trace")
    causes = [Cause(text) for text in options.dump_on] or [Cause.ERROR]
    return Last(options.last, causes)


def _forward(proxy: Proxy, outputs: Outputs, watcher: SignalWatcher, seconds: float | None) -> str:
    """Forward until the end; returns what has ended it."""
    end = None if seconds is None else time.monotonic() + seconds

    def next_look() -> float | None:
        looks = (end, outputs.next_look, watcher.next_look)
        return min((moment for moment in looks if moment is not None), default=None)

    try:
        while end is None or time.monotonic() < end:
            until = proxy.run(watcher.fds, next_look)
            watcher.check()
            outputs.look(until)
    except SignalError as signaled:
        if signaled.signum not in (signal.SIGINT, signal.SIGTERM):
            raise
        return str(signaled)
    return f"ended after {seconds:g} s"


def _commands(program: str | None, pairs: Sequence[Pair]) -> list[tuple[str, list[str]]]:
    """Title and words of the program of each pair."""
    if program is None:
        return []
    try:
        words = shlex.split(program)
    except ValueError as error:
        raise OptionError(f"--exec {program!r}: {error}") from None
    if not any("{socket}" in word for word in words):
        raise OptionError("--exec: write {socket} where the program takes the socket's path")
    return [
        (f"--exec of {pair.name}", [word.replace("{socket}", pair.connect) for word in words])
        for pair in pairs
    ]


@contextmanager
def _started(commands: Sequence[tuple[str, list[str]]], watcher: SignalWatcher) -> Iterator[None]:
    """Run the programs until the block ends.

    Raises:
        EmuError: one cannot be started.
    """
    if not commands:
        yield
        return
    from emu.orchestrator.managed_process import ManagedProcess, end

    programs: list[ManagedProcess] = []
    with TemporaryDirectory("emu-tap-") as directory:
        try:
            for number, (title, words) in enumerate(commands):
                try:
                    program = ManagedProcess(title, words, log=directory / f"{number}.log")
                except OSError as error:
                    raise EmuError(f"{title}: {words[0]}: {error.strerror}") from None
                programs.append(program)
                watcher.watch(program)
            yield
        finally:
            end(programs)


def _report(line: str) -> None:
    click.echo(line, err=True)
