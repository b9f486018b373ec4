"""The messages of a monitor: JSON objects (QEMU: docs/interop/qmp-spec.rst).

The server sends a greeting, then the client sends ``qmp_capabilities``; from then on it sends
commands. The response to each is one ``return`` or ``error``, with the command's ``id`` if it had
one. Events may be sent between any two responses.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from typing import Any

from emu import json_input
from emu.errors import MonitorError

JsonObject = dict[str, Any]
#: Sends an event to the client of the monitor; any thread may call it.
EventSink = Callable[[str, JsonObject], None]

#: Bytes of the longest command or response (a timeline of 608 rings takes about 1 MB).
MAX_MESSAGE = 64 << 20
#: Bytes that no JSON text has: a client sends one to end whatever it has sent before.
_CONTROL = rb"\x00-\x08\x0b\x0c\x0e-\x1f\xff"
_TOKEN = re.compile(rb'\\[^\x00-\x1f\xff]|["{}\[\]\n' + _CONTROL + rb"]")
#: The result of query-version, in QMP's form, as clients read it; the server is not QEMU.
VERSION = {"qemu": {"major": 0, "minor": 1, "micro": 0}, "package": "vhost-emu"}

GENERIC_ERROR = "GenericError"
COMMAND_NOT_FOUND = "CommandNotFound"


def encode(message: JsonObject) -> bytes:
    """One message as a line."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\r\n"


def greeting() -> JsonObject:
    """The server's first message."""
    return {"QMP": {"version": VERSION, "capabilities": []}}


def success(value: object) -> JsonObject:
    """The response to a command that was executed."""
    return {"return": {} if value is None else value}


def failure(error_class: str, description: str) -> JsonObject:
    """The response to a command that failed."""
    return {"error": {"class": error_class, "desc": description}}


def with_id(response: JsonObject, command: JsonObject) -> JsonObject:
    """A response with the identifier of its command, if that has one: any JSON value."""
    return {**response, "id": command["id"]} if "id" in command else response


def command_of(message: JsonObject) -> tuple[str, JsonObject]:
    """The name and the arguments of a command.

    Raises:
        MonitorError: the message has other members than a command, or members of other types.
    """
    for member in message:
        if member not in ("execute", "arguments", "id"):
            raise MonitorError(f"QMP input member '{member}' is unexpected")
    if "execute" not in message:
        raise MonitorError("QMP input lacks member 'execute'")
    name, arguments = message["execute"], message.get("arguments", {})
    if not isinstance(name, str):
        raise MonitorError("QMP input member 'execute' must be a string")
    if not isinstance(arguments, dict):
        raise MonitorError("QMP input member 'arguments' must be an object")
    return name, arguments


def event(name: str, data: JsonObject | None = None) -> JsonObject:
    """An event, with the time of the wall clock."""
    seconds, microseconds = divmod(time.time_ns() // 1000, 1_000_000)
    stamp = {"seconds": seconds, "microseconds": microseconds}
    message: JsonObject = {"event": name, "timestamp": stamp}
    if data:
        message["data"] = data
    return message


def parse(data: bytes) -> JsonObject:
    """The JSON object of a message.

    Raises:
        MonitorError: the message is not JSON, not an object, or has a value out of bounds.
    """
    try:
        message = json_input.parse(data)
    except json_input.JsonInputError as error:
        reason = str(error).removeprefix("it is not JSON: ")
        raise MonitorError(f"JSON parse error, {reason}") from None
    if not isinstance(message, dict):
        raise MonitorError("QMP input must be a JSON object")
    return message


class MessageBuffer:
    """Splits a stream into messages.

    A message ends with its outermost bracket: QEMU's clients send no newline after it. Text outside
    of brackets ends at the newline; `parse` then rejects it. So does a message end at a control
    character, after which a client that has sent an incomplete one can go on (qmp-spec, "Forcing
    the JSON parser into known-good state").
    """

    def __init__(self) -> None:
        self._data = bytearray()
        self._seen = 0
        self._depth = 0
        self._in_string = False

    def feed(self, data: bytes) -> list[bytes]:
        """Append bytes of the stream; returns the messages that are complete.

        Raises:
            MonitorError: a message is longer than `MAX_MESSAGE`.
        """
        self._data += data
        messages = []
        start, end = 0, self._seen
        for token in _TOKEN.finditer(self._data, self._seen):
            end = token.end()
            if self._ends_message(token[0]):
                message = bytes(self._data[start:end]).strip()
                start = end
                if message:
                    messages.append(message)
        # A backslash at the end is read again with what it escapes, unless it is escaped itself.
        escapes = self._data[-1:] == b"\\" and end < len(self._data)
        self._seen = len(self._data) - start - escapes
        del self._data[:start]
        if len(self._data) > MAX_MESSAGE:
            raise MonitorError(f"a message is longer than {MAX_MESSAGE} bytes")
        return messages

    def _ends_message(self, token: bytes) -> bool:
        first = token[0]
        if (first < ord(" ") and token != b"\n") or first == 0xFF:
            self._in_string, self._depth = False, 0
            return True
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
