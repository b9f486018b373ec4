"""What goes over a monitor: JSON objects, one a line (QEMU: docs/interop/qmp-spec.rst).

Server first: a greeting, then the client's ``qmp_capabilities``; from then on commands, each
answered by one ``return`` or ``error`` that carries the command's ``id`` when it had one. Events
may stand between any two answers.
"""

from __future__ import annotations

import json
import time
from typing import Any

from emu.errors import MonitorError

JsonObject = dict[str, Any]

#: A line longer than this is no command and no answer (a timeline of 608 rings takes about 1 MB).
MAX_LINE = 64 << 20
#: The version of QMP's shape that is spoken here; clients look at it, and no QEMU answers.
VERSION = {"qemu": {"major": 0, "minor": 1, "micro": 0}, "package": "vhost-emu"}

GENERIC_ERROR = "GenericError"
COMMAND_NOT_FOUND = "CommandNotFound"


def encode(message: JsonObject) -> bytes:
    """One message as a line of its own."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\r\n"


def greeting() -> JsonObject:
    """The server's first message."""
    return {"QMP": {"version": VERSION, "capabilities": []}}


def success(value: object, request_id: object = None) -> JsonObject:
    """The answer to a command that was carried out."""
    return _with_id({"return": {} if value is None else value}, request_id)


def failure(error_class: str, description: str, request_id: object = None) -> JsonObject:
    """The answer to a command that was not."""
    return _with_id({"error": {"class": error_class, "desc": description}}, request_id)


def event(name: str, data: JsonObject | None = None) -> JsonObject:
    """Something that happened by itself, with the wall clock's time."""
    seconds, microseconds = divmod(time.time_ns() // 1000, 1_000_000)
    stamp = {"seconds": seconds, "microseconds": microseconds}
    message: JsonObject = {"event": name, "timestamp": stamp}
    if data:
        message["data"] = data
    return message


def _with_id(message: JsonObject, request_id: object) -> JsonObject:
    if request_id is not None:
        message["id"] = request_id
    return message


def parse(line: bytes) -> JsonObject:
    """The object on one line.

    Raises:
        MonitorError: it is no JSON, or no object.
    """
    try:
        message = json.loads(line)
    except ValueError as error:
        raise MonitorError(f"JSON parse error, {error}") from None
    if not isinstance(message, dict):
        raise MonitorError("QMP input must be a JSON object")
    return message


class LineBuffer:
    """Cuts a stream into lines; empty ones are skipped."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Complete lines, after these bytes came.

        Raises:
            MonitorError: a line is longer than `MAX_LINE`.
        """
        # Only the new bytes can hold a new line's end; a long line must not be searched again.
        if b"\n" not in data:
            self._rest += data
            if len(self._rest) > MAX_LINE:
                raise MonitorError(f"a line is longer than {MAX_LINE} bytes")
            return []
        *lines, rest = (bytes(self._rest) + data).split(b"\n")
        self._rest = bytearray(rest)
        return [line.strip() for line in lines if line.strip()]
