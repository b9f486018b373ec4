"""The array form of the Chrome trace event format, written event by event.

The format is described in "Trace Event Format" (Google, 2016). The events may have any order, and
the bracket at the end may be missing: viewers also open the file of a command that was killed.
"""

from __future__ import annotations

import json
from typing import Any

Event = dict[str, Any]

#: The line before all others.
BEGIN = "["


def line(event: Event) -> str:
    """The line of an event."""
    return json.dumps(event, separators=(",", ":")) + ","


def end(command: str) -> str:
    """The last line; as after the last event there is no comma, it is one more event."""
    event = metadata(0, 0, "process_name", name=command)
    return json.dumps(event, separators=(",", ":")) + "]"


def metadata(pid: int, tid: int, kind: str, **args: object) -> Event:
    """An event that names a process or a track, or orders them."""
    return {"ph": "M", "name": kind, "pid": pid, "tid": tid, "ts": 0, "args": args}
