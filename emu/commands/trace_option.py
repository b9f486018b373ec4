"""The option ``--trace``: what happened, for the viewers of the Chrome trace event format."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from backends.trace_options import PROTOCOL_EVENTS, report_failure
from emu import trace_events
from emu.commands import validate
from emu.errors import OptionError
from vhost_user import output_file, tracing

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import IO, Any

#: The events that become part of the trace; the migration's are defined when this is imported.
_EVENTS = (
    *(PROTOCOL_EVENTS.WRITE, PROTOCOL_EVENTS.READ),
    *(PROTOCOL_EVENTS.BACKEND_READ, PROTOCOL_EVENTS.BACKEND_WRITE, PROTOCOL_EVENTS.RING_STATE),
    *(trace_events.PHASE_END, trace_events.MARK, trace_events.STATUS, trace_events.ROUND),
    *(trace_events.REQUESTS, trace_events.COMMIT, trace_events.VCPUS),
)

#: Those of `vhost_user_conformance.trace_events`, which a migration does not import.
_CONFORMANCE = "conformance_*"


def _trace(context: click.Context, _option: click.Parameter, path: Path | None) -> None:
    """Record events until the command ends, and then write the document."""
    if path is None or context.resilient_parsing:  # a shell completes the command
        return
    validate.output_file("--trace", path)
    if tracing.environment("-"):
        raise OptionError("--trace-events and EMU_TRACE cannot be combined with --trace")
    # Unlinked: nothing is left, whatever ends the command. Its processes inherit the descriptor.
    file = tempfile.TemporaryFile("a+", prefix="emu-trace-", encoding="utf-8")  # noqa: SIM115
    patterns = ",".join([*(event.name for event in _EVENTS), _CONFORMANCE])
    tracing.enable_records(patterns, fd=file.fileno(), process=context.info_name or "emu")
    context.call_on_close(lambda: _write(path, file))


def _write(path: Path, file: IO[str]) -> None:
    from emu.report.chrome_trace import ChromeTrace

    tracing.write_records()
    failure = tracing.failure()
    file.seek(0)
    trace = ChromeTrace(tracing.read_records(file))
    document = trace.to_json()
    tracing.disable()
    file.close()
    try:
        output_file.write(path, json.dumps(document, separators=(",", ":")) + "\n")
    except OSError as error:
        failure = failure or error
    if trace.cut_ns is not None:
        click.echo(
            f"--trace {path}: the trace ends {trace.seconds:.1f} s after its first event: it has "
            f"the most that is kept, {tracing.MAX_RECORDS_BYTES >> 20} MiB of records",
            err=True,
        )
    report_failure(f"--trace {path}", failure)


def _option(what: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option(
        "--trace",
        type=click.Path(path_type=Path),
        expose_value=False,
        callback=_trace,
        metavar="FILE",
        help=f"Write {what} to a file for ui.perfetto.dev (Chrome trace event format).",
    )


#: Decorator: after `trace_options`, which is looked at before.
trace_option = _option("phases, messages and counters of all processes")
#: Decorator: the same for `emu conform`.
case_trace_option = _option("a span for each case, with its messages,")
