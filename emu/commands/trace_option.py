"""The option ``--trace``: what happened, for the viewers of the Chrome trace event format."""

from __future__ import annotations

import json
import socket
import struct
import subprocess
import sys
from typing import TYPE_CHECKING

import click

from backends.options import FilePath
from backends.trace_options import PROTOCOL_EVENTS, report_incomplete
from emu import trace_events
from emu.commands import validate
from emu.errors import OptionError
from vhost_user import output_file, tracing

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Any

#: The events that become part of the trace; the migration's are defined when this is imported.
_EVENTS = (
    *(PROTOCOL_EVENTS.WRITE, PROTOCOL_EVENTS.READ),
    *(PROTOCOL_EVENTS.BACKEND_READ, PROTOCOL_EVENTS.BACKEND_WRITE, PROTOCOL_EVENTS.RING_STATE),
    *(trace_events.PHASE_END, trace_events.MARK, trace_events.STATUS, trace_events.ROUND),
    *(trace_events.REQUESTS, trace_events.COMMIT, trace_events.VCPUS),
)

#: Those of `vhost_user_conformance.trace_events`, which a migration does not import.
_CONFORMANCE = "conformance_*"
_PROGRAM = "emu.report.trace_process"
_ANSWER = 65536


#: Seconds that a process waits until its records are taken.
_SEND_TIMEOUT = 5
#: Seconds until the process that writes the file has written the rest.
_END_TIMEOUT = 60.0


def _trace(context: click.Context, _option: click.Parameter, path: Path | None) -> None:
    """Record events until the command ends; another process writes the file meanwhile."""
    if path is None or context.resilient_parsing:  # a shell completes the command
        return
    validate.output_file("--trace", path)
    if path.is_symlink() and not output_file.is_stream(path):
        raise OptionError(f"--trace {path} is a symbolic link")
    if tracing.environment("-"):
        raise OptionError("--trace-events and EMU_TRACE cannot be combined with --trace")
    name = context.info_name or "emu"
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        # A path such as /dev/fd/63 is that of a descriptor that the shell has opened.
        writer = subprocess.Popen(
            [sys.executable, "-P", "-m", _PROGRAM, str(path), f"emu {name}"],
            stdin=theirs.fileno(),
            close_fds=False,
            process_group=0,
        )
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", _SEND_TIMEOUT, 0))
    patterns = ",".join([*(event.name for event in _EVENTS), _CONFORMANCE])
    tracing.enable_records(patterns, fd=ours.fileno(), process=name)
    context.call_on_close(lambda: _end(path, ours, writer))


def _end(path: Path, sock: socket.socket, writer: subprocess.Popen[bytes]) -> None:
    from emu.report.trace_process import END

    tracing.end_records()
    tracing.disable()
    answered = False
    missing = f"{path}: the process that writes it has ended"
    try:
        sock.settimeout(_END_TIMEOUT)
        sock.send(END)
        if answer := sock.recv(_ANSWER):
            missing, answered = json.loads(answer), True
    except TimeoutError:
        missing = f"{path}: the process that writes it does not end within {_END_TIMEOUT:g} s"
    except OSError:
        pass
    finally:
        sock.close()
        if not answered:
            writer.kill()
        writer.wait()
    if missing:
        report_incomplete(f"--trace {missing}")


def _option(what: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option(
        "--trace",
        type=FilePath(),
        expose_value=False,
        callback=_trace,
        metavar="FILE",
        help=f"Write {what} to a file for ui.perfetto.dev (Chrome trace event format).",
    )


#: Decorator: after `trace_options`, which is looked at before.
trace_option = _option("phases, messages and counters of all processes")
#: Decorator: the same for `emu conform`.
case_trace_option = _option("a span for each case, with its messages,")
