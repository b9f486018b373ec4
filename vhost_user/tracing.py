"""Trace events: what happens, one line per event, in the manner of QEMU's ``-trace``.

A module defines its events with `event`, which adds them to `EVENTS`. An event is off until
`enable` (or `configure_from_environment`) names it; the code that emits one asks first::

    if WRITE.enabled:
        WRITE.emit(device=name, ring=ring, request=row.name)

so an event that is off costs one attribute look-up. A line has the time (CLOCK_MONOTONIC, seconds,
the same clock in all processes of a host), the process, the event, and its fields::

    7421.083512 A vhost_user_write device=blk0 ring=2 message=GET_VRING_BASE size=8

Processes that are started by a traced one are traced as well: `environment` has what they need.
A line is written by one ``write``, so that lines of several processes do not mix.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from vhost_user.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Patterns of event names; the descriptor to write to; the name of the process in each line.
PATTERNS_VARIABLE = "EMU_TRACE"
FD_VARIABLE = "EMU_TRACE_FD"
PROCESS_VARIABLE = "EMU_TRACE_PROCESS"

_STDERR = 2


@dataclass(slots=True)
class TraceEvent:
    """One kind of event.

    Attributes:
        name: as patterns match it.
        fields: names of its fields, in the order in which a line has them.
        help: when it happens; a sentence for the documents.
        enabled: `emit` is to be called. Set by `enable` only.
    """

    name: str
    fields: tuple[str, ...]
    help: str
    enabled: bool = False

    def emit(self, **values: object) -> None:
        """Write the event's line. A field that is None is left out."""
        parts = [
            f" {field}={_text(values[field])}" for field in self.fields if values[field] is not None
        ]
        seconds, rest = divmod(time.monotonic_ns(), 1_000_000_000)
        line = f"{seconds}.{rest // 1000:06d} {_output.process} {self.name}{''.join(parts)}\n"
        try:
            os.write(_output.fd, line.encode())
        except OSError as error:  # a full disk, or a reader that has gone, does not end the program
            _output.failure = _output.failure or error


@dataclass(slots=True)
class _Output:
    fd: int = _STDERR
    process: str = "-"
    failure: OSError | None = None


#: All events of the modules that were imported, by name.
EVENTS: dict[str, TraceEvent] = {}
_output = _Output()
_patterns: list[str] = []


def event(name: str, *fields: str, help: str) -> TraceEvent:  # noqa: A002  as argparse calls it
    """Define an event.

    Raises:
        UsageError: there is one of that name.
    """
    if name in EVENTS:
        raise UsageError(f"the trace event {name} is defined twice")
    made = EVENTS[name] = TraceEvent(name, fields, help, _is_named(name))
    return made


def enable(patterns: str, *, fd: int = _STDERR, process: str = "-") -> None:
    """Switch events on.

    Args:
        patterns: separated by commas, such as ``vhost_user_*,migration_set_state``; ``*`` is all.
            A pattern that matches no event so far holds for events that are defined later.
        fd: descriptor for the lines; it stays the caller's.
        process: name of this process in each line.
    """
    _patterns[:] = [pattern.strip() for pattern in patterns.split(",") if pattern.strip()]
    _output.fd, _output.process, _output.failure = fd, process, None
    for made in EVENTS.values():
        made.enabled = _is_named(made.name)


def configure_from_environment(process: str) -> None:
    """`enable` the events that the environment variable names, if it is set.

    Args:
        process: name of this process, unless the environment has one.
    """
    patterns = os.environ.get(PATTERNS_VARIABLE, "")
    if patterns:
        fd = os.environ.get(FD_VARIABLE, "")
        enable(
            patterns,
            fd=int(fd) if fd.isdigit() else _STDERR,
            process=os.environ.get(PROCESS_VARIABLE, process),
        )


def environment(process: str) -> Mapping[str, str]:
    """Variables for a process that this one starts; empty when nothing is traced.

    Args:
        process: name of that process in its lines.
    """
    if not _patterns:
        return {}
    return {
        PATTERNS_VARIABLE: ",".join(_patterns),
        FD_VARIABLE: str(_output.fd),
        PROCESS_VARIABLE: process,
    }


def inherited_fds() -> tuple[int, ...]:
    """Descriptors that a process with `environment` has to inherit."""
    return (_output.fd,) if _patterns else ()


def failure() -> OSError | None:
    """Why the first line that this process could not write is missing, or None."""
    return _output.failure


def unmatched() -> list[str]:
    """The patterns that match no event of the modules that were imported."""
    return [
        pattern for pattern in _patterns if not any(fnmatchcase(name, pattern) for name in EVENTS)
    ]


def _text(value: object) -> str:
    """A field's value without white space, or in quotes."""
    text = str(value)
    return json.dumps(text) if not text or any(c.isspace() for c in text) else text


def _is_named(name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in _patterns)
