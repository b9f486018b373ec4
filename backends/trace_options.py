"""The options ``--trace-events`` and ``--trace-file``, which all programs have."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from backends.options import FilePath, option_group
from vhost_user import output_file, trace_events, tracing

if TYPE_CHECKING:
    from pathlib import Path

_FILE = "backends.trace_options.file"


def _keep_file(context: click.Context, _option: click.Parameter, value: Path | None) -> None:
    context.meta[_FILE] = value


def _enable(context: click.Context, option: click.Parameter, patterns: str | None) -> None:
    """Switch the events on before the command runs; ``help`` lists them instead."""
    if context.resilient_parsing:  # a shell completes the command
        return
    file: Path | None = context.meta[_FILE]
    if patterns is None:
        if file is not None:
            raise click.UsageError("--trace-file needs --trace-events")
        return
    if patterns == "help":
        for name, event in sorted(tracing.EVENTS.items()):
            click.echo(f"{name}: {event.help}")
        context.exit()
    if tracing.is_recording():
        raise click.UsageError(f"{option.opts[0]} and EMU_TRACE cannot be combined with --trace")
    name = context.info_name or "-"
    if file is not None:
        _open(context, file, patterns)
    elif tracing.FD_VARIABLE in os.environ:  # this program was started by one that is traced
        tracing.configure_from_environment(name)
        return
    else:
        tracing.enable(patterns, fd=os.dup(2), process=name)
    _check_patterns(context, option)


def _open(context: click.Context, file: Path, patterns: str) -> None:
    """Trace to a file. That it can be written is seen at once, and again at the end.

    The processes that this one starts write to the same file: if one of them found it full, it
    still is at the end.
    """
    option = f"--trace-file {file}"
    try:
        fd = output_file.open_to_append(file)
    except OSError as error:
        raise click.UsageError(f"{option}: {error.strerror}") from None
    tracing.enable(patterns, fd=fd, process=context.info_name or "-")
    trace_events.TRACE_BEGIN.emit(patterns=patterns)
    if unwritten := tracing.failure():
        raise click.UsageError(f"{option}: {unwritten.strerror}")

    def end() -> None:
        trace_events.TRACE_END.emit()
        report_failure(option, tracing.failure())

    context.call_on_close(end)


def report_failure(option: str, failure: OSError | None) -> None:
    """At the end of a command: report what could not be written, if anything.

    Args:
        option: with its file, for the line.
        failure: the first error, or None.

    Raises:
        click.ClickException: there is one, and the command does not end with another exception.
    """
    if failure is not None:
        report_incomplete(f"{option}: {failure.strerror}: the trace is incomplete")


def report_incomplete(line: str) -> None:
    """At the end of a command: report that a trace is incomplete.

    Raises:
        click.ClickException: the command does not end with another exception.
    """
    if sys.exception() is None:
        raise click.ClickException(line)
    click.echo(line, err=True)  # the exception has the exit status


def _check_patterns(context: click.Context, option: click.Parameter) -> None:
    """A pattern that matches nothing is a typing error, or was meant for other programs, too."""
    for pattern in tracing.unmatched():
        if context.get_parameter_source(str(option.name)) is ParameterSource.ENVIRONMENT:
            click.echo(f"no trace event matches {pattern!r}: see --trace-events help", err=True)
        else:
            names = ", ".join(sorted(tracing.EVENTS))
            raise click.UsageError(f"--trace-events {pattern}: no such event; there are {names}")


#: Only importing `vhost_user.trace_events` puts the protocol's events into the table.
PROTOCOL_EVENTS = trace_events

trace_options = option_group(
    click.option(
        "--trace-file",
        type=FilePath(dir_okay=False),
        is_eager=True,
        expose_value=False,
        callback=_keep_file,
        metavar="FILE",
        help="Append the lines of --trace-events to this file.  [default: standard error]",
    ),
    click.option(
        "--trace-events",
        envvar=tracing.PATTERNS_VARIABLE,
        show_envvar=True,
        expose_value=False,
        callback=_enable,
        metavar="PATTERN[,PATTERN...]",
        help="Print a line for each of these events, such as 'vhost_user_*,migration_*'; 'help' "
        "lists them.",
    ),
)
