"""Writes ``docs/reference/trace-events.md`` from the table of trace events: ``make docs``."""

from __future__ import annotations

import sys
from pathlib import Path

from emu import trace_events
from vhost_user import trace_events as protocol_events
from vhost_user.tracing import TraceEvent

DOCUMENT = "trace-events.md"
#: Importing these modules defines the events.
SOURCES = (protocol_events, trace_events)

_HEAD = """# Trace events

<!-- Made by `make docs`: edit vhost_user/trace_events.py or emu/trace_events.py instead. -->

`emu migrate`, `emu run`, `emu attach`, `emu sweep` and the back-end programs print trace events,
one line each, similar to QEMU's `-trace`:

<!-- run -->

    emu migrate --net 1x2 --blk 1x1 --vcpus 2 --memory 1G --strategy prewired \\
        --trace-events 'vhost_user_*,migration_*' --trace-file trace.log

`emu tap` prints `vhost_user_ring_state` only; its own logs have the messages.

`--trace-events` takes patterns, separated by commas; with `help` it lists the events. The
environment variable `EMU_TRACE` takes the same patterns. Without `--trace-file` the lines go to
standard error. The processes that a command starts (VM processes, back-end programs) write to the
same place. `--trace` writes the events of all processes to one file instead, for a viewer
([traces](../how-to/trace.md)).

A pattern that matches no event is an error (in the environment variable, a warning). So is a file
that cannot be written at the start. If a later write fails, as when the disk is full, the command
reports that at its end, with exit status 1.

    7277.413164 VM-process-A vhost_user_write device=net0 ring=0 message=GET_VRING_BASE payload=...
    7277.413302 back-end-net-0-of-side-A vhost_user_backend_read device=A-net0 ring=0 message=...

A line has the time, the process, the event and its fields. The time is CLOCK_MONOTONIC in
seconds, which is the same clock in all processes of a host: `sort -n trace.log` orders the lines
of all processes. A field that does not apply is left out. A value that contains white space is
quoted as in JSON.

| event | when | fields |
|---|---|---|
"""


def text() -> str:
    """The text of the document."""
    rows = [
        f"| `{event.name}` | {event.help} | {', '.join(f'`{field}`' for field in event.fields)} |\n"
        for event in sorted(_events(), key=lambda event: event.name)
    ]
    return _HEAD + "".join(rows)


def _events() -> list[TraceEvent]:
    """Those of these commands; the conformance suite's are for ``--trace`` only."""
    values = [value for source in SOURCES for value in vars(source).values()]
    return [value for value in values if isinstance(value, TraceEvent)]


def main(directory: Path) -> None:
    """Write the document in this directory again."""
    path = directory / DOCUMENT
    path.write_text(text(), encoding="utf-8")
    sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
