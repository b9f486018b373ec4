"""The options ``--trace-events`` and ``--trace-file``, which all programs have."""

from __future__ import annotations

import os
from pathlib import Path

import click

from backends.options import option_group
from vhost_user import trace_events, tracing

_FILE = "backends.trace_options.file"


def _keep_file(context: click.Context, _option: click.Parameter, value: Path | None) -> None:
    context.meta[_FILE] = value


def _enable(context: click.Context, _option: click.Parameter, patterns: str | None) -> None:
    """Switch the events on before the command runs; ``help`` lists them instead."""
    file: Path | None = context.meta[_FILE]
    if patterns is None:
        if file is not None:
            raise click.UsageError("--trace-file needs --trace-events")
        return
    if patterns == "help":
        for name, event in sorted(tracing.EVENTS.items()):
            click.echo(f"{name}: {event.help}")
        context.exit()
    if file is not None:
        try:
            fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise click.UsageError(f"--trace-file {file}: {error.strerror}") from None
        tracing.enable(patterns, fd=fd, process=context.info_name or "-")
    elif tracing.FD_VARIABLE in os.environ:  # this program was started by one that is traced
        tracing.configure_from_environment(context.info_name or "-")
    else:
        tracing.enable(patterns, fd=os.dup(2), process=context.info_name or "-")
    for pattern in tracing.unmatched():
        click.echo(f"no trace event matches {pattern!r}: see --trace-events help", err=True)


#: Only importing `vhost_user.trace_events` puts the protocol's events into the table.
PROTOCOL_EVENTS = trace_events

trace_options = option_group(
    click.option(
        "--trace-file",
        type=click.Path(path_type=Path, dir_okay=False),
        is_eager=True,
        expose_value=False,
        callback=_keep_file,
        metavar="FILE",
        help="Append the trace to this file.  [default: standard error]",
    ),
    click.option(
        "--trace-events",
        envvar=tracing.PATTERNS_VARIABLE,
        show_envvar=True,
        expose_value=False,
        callback=_enable,
        metavar="PATTERN[,PATTERN...]",
        help="Trace these events, such as 'vhost_user_*,migration_*'; 'help' lists them.",
    ),
)
