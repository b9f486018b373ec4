"""What goes over a monitor: JSON objects (QEMU: docs/interop/qmp-spec.rst).

Server first: a greeting, then the client's ``qmp_capabilities``; from then on commands, each
answered by one ``return`` or ``error`` that carries the command's ``id`` when it had one. Events
may stand between any two answers.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from typing import Any

from emu.errors import MonitorError

JsonObject = dict[str, Any]
#: Sends an event to the client of the monitor; any thread may call it.
EventSink = Callable[[str, JsonObject], None]

#: No command and no response is longer (a timeline of 608 rings takes about 1 MB).
MAX_MESSAGE = 64 << 20
_TOKEN = re.compile(rb'\\.|["{}\[\]\n]', re.DOTALL)
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


def parse(data: bytes) -> JsonObject:
    """The object that a message is.

    Raises:
        MonitorError: it is not JSON, or not an object.
    """
    try:
        message = json.loads(data)
    except ValueError as error:
        raise MonitorError(f"JSON parse error, {error}") from None
    if not isinstance(message, dict):
        raise MonitorError("QMP input must be a JSON object")
    return message


class MessageBuffer:
    """Cuts a stream into messages.

    A message ends with its outermost bracket: QEMU's clients send no line's end after it. Text
    outside of brackets is cut at the line's end; `parse` then refuses it.
    """

    def __init__(self) -> None:
        self._data = bytearray()
        self._seen = 0
        self._depth = 0
        self._in_string = False

    def feed(self, data: bytes) -> list[bytes]:
        """Complete messages, after these bytes came.

        Raises:
            MonitorError: a message is longer than `MAX_MESSAGE`.
        """
        self._data += data
        messages = []
        start = end = 0
        for token in _TOKEN.finditer(self._data, self._seen):
            end = token.end()
            if self._ends_message(token[0]):
                message = bytes(self._data[start:end]).strip()
                start = end
                if message:
                    messages.append(message)
        # A backslash at the very end waits for what it escapes, unless it is escaped itself.
        waits = self._data[-1:] == b"\\" and end < len(self._data)
        self._seen = len(self._data) - start - waits
        del self._data[:start]
        if len(self._data) > MAX_MESSAGE:
            raise MonitorError(f"a message is longer than {MAX_MESSAGE} bytes")
        return messages

    def _ends_message(self, token: bytes) -> bool:
        if self._in_string:
            self._in_string = token != b'"'
        elif token == b'"':
            self._in_string = self._depth > 0
        elif token in b"{[":
            self._depth += 1
        elif token in b"}]":
            self._depth = max(0, self._depth - 1)
            return self._depth == 0
        return token == b"\n" and self._depth == 0
