"""The server's end of a monitor: the process that has the VM."""

from __future__ import annotations

import inspect
import json
import os
import queue
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from emu.errors import EmuError, MonitorError
from emu.qmp import protocol
from emu.trace_events import QMP_COMMAND, QMP_EVENT
from vhost_user.errors import VhostUserError

if TYPE_CHECKING:
    from emu.qmp.protocol import JsonObject

Handler = Callable[..., object]

#: How long a command that is being carried out may go on after the client has gone.
HANG_UP_GRACE = 3.0

#: How long a client may leave unread what it is sent: an event comes from a thread with other work.
SEND_DEADLINE = 30

#: What an argument must be, by its annotation's text: (what JSON calls it, Python's types).
_TYPES: dict[str, tuple[str, tuple[type, ...]]] = {
    "str": ("string", (str,)),
    "int": ("integer", (int,)),
    "int | None": ("integer", (int, type(None))),
    "float": ("number", (int, float)),
    "bool": ("boolean", (bool,)),
    "JsonObject": ("object", (dict,)),
    "JsonObject | None": ("object", (dict, type(None))),
}


class Command:
    """A handler, and the command's arguments according to its signature.

    An argument ``reset_gap`` is called ``reset-gap`` on the wire.
    """

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._parameters = inspect.signature(handler).parameters

    def __call__(self, arguments: JsonObject) -> object:
        """Check the arguments and carry the command out.

        Raises:
            MonitorError: an argument is missing, unknown, or of another type.
        """
        given = {name.replace("-", "_"): value for name, value in arguments.items()}
        for name in given.keys() - self._parameters.keys():
            raise MonitorError(f"Parameter '{name.replace('_', '-')}' is unexpected")
        for name, parameter in self._parameters.items():
            _check(parameter, name in given, given.get(name))
        return self._handler(**given)


def _check(parameter: inspect.Parameter, present: bool, value: object) -> None:  # noqa: FBT001
    name = parameter.name.replace("_", "-")
    if not present:
        if parameter.default is inspect.Parameter.empty:
            raise MonitorError(f"Parameter '{name}' is missing")
        return
    expected, types = _TYPES.get(str(parameter.annotation), ("value", (object,)))
    # A bool is an int to Python, but not to JSON.
    if not isinstance(value, types) or (isinstance(value, bool) and int in types):
        raise MonitorError(f"Invalid parameter type for '{name}', expected: {expected}")


class MonitorServer:
    """Serves one client on a connected stream socket.

    Commands are carried out one after the other, by the thread that calls `serve`; events may be
    sent by any thread. A thread of its own reads, so that a client that has gone is noticed
    while a command is being carried out: a VM without anybody who drives it must not stay.

    Args:
        sock: connected; the server owns it from here on.
        commands: of the client.
        alone: no other client drives the VM, so that the process ends if a command hangs when the
            client has gone.

    Attributes:
        told_to_quit: the client has sent ``quit``.
    """

    def __init__(
        self, sock: socket.socket, commands: Mapping[str, Handler], *, alone: bool = True
    ) -> None:
        self.told_to_quit = False
        self._sock = sock
        # For what is sent only: a command may come at any time.
        timeval = struct.pack("@ll", SEND_DEADLINE, 0)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeval)
        self._alone = alone
        self._commands = {name: Command(handler) for name, handler in commands.items()}
        self._commands["query-commands"] = Command(self._query_commands)
        self._commands["query-version"] = Command(lambda: protocol.VERSION)
        self._send_lock = threading.Lock()
        self._negotiated = False
        self._inbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._finished = threading.Event()
        self._reader = threading.Thread(target=self._read, name="monitor", daemon=True)

    def serve(self) -> None:
        """Answer commands until the client has hung up or sent ``quit``.

        Raises whatever a handler raises that is none of `EmuError`, `VhostUserError` and
        `OSError`: that is a bug, and the process should end with its traceback.
        """
        self._reader.start()
        self._send(protocol.greeting())
        while (data := self._inbox.get()) is not None:
            if not self._answer(data):
                return

    def emit(self, name: str, data: JsonObject | None = None) -> None:
        """Send an event. A client that has gone misses it."""
        if QMP_EVENT.enabled:
            QMP_EVENT.emit(name=name, data=json.dumps(data or {}, separators=(",", ":")))
        if self._negotiated:
            self._send(protocol.event(name, data))

    def hang_up(self) -> None:
        """Have `serve` return when it has carried out what it has begun. From any thread."""
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)  # wakes the reader, which a close would not

    def close(self) -> None:
        """Hang up: what the process has to do before it ends has been done."""
        self._finished.set()
        self.hang_up()
        self._reader.join()
        self._sock.close()

    def _read(self) -> None:
        buffer = protocol.MessageBuffer()
        try:
            while data := self._sock.recv(1 << 16):
                for message in buffer.feed(data):
                    self._inbox.put(message)
        except (OSError, MonitorError):
            pass  # both mean that no further command will come
        self._inbox.put(None)
        if self._alone and not self._finished.wait(HANG_UP_GRACE):
            os._exit(1)  # a command hangs, and no client is left

    def _answer(self, data: bytes) -> bool:
        try:
            message = protocol.parse(data)
        except MonitorError as error:
            self._send(protocol.failure(protocol.GENERIC_ERROR, str(error)))
            return True
        name = message.get("execute")
        self._send(self._carry_out(name, message.get("arguments", {}), message.get("id")))
        self.told_to_quit = name == "quit" and self._negotiated
        return not self.told_to_quit

    def _carry_out(self, name: object, arguments: object, request_id: Any) -> JsonObject:
        if not isinstance(name, str) or not isinstance(arguments, dict):
            text = "QMP input lacks member 'execute', or 'arguments' is not an object"
            return protocol.failure(protocol.GENERIC_ERROR, text, request_id)
        refusal = self._refusal(name)
        if refusal is not None:
            return protocol.failure(protocol.COMMAND_NOT_FOUND, refusal, request_id)
        if name in ("qmp_capabilities", "quit"):
            self._negotiated = True
            return protocol.success(None, request_id)
        if QMP_COMMAND.enabled:
            QMP_COMMAND.emit(name=name)
        try:
            return protocol.success(self._commands[name](arguments), request_id)
        except (EmuError, VhostUserError, OSError) as error:
            return protocol.failure(protocol.GENERIC_ERROR, str(error), request_id)

    def _refusal(self, name: str) -> str | None:
        if not self._negotiated and name != "qmp_capabilities":
            return f"Expecting capabilities negotiation with 'qmp_capabilities', not '{name}'"
        if self._negotiated and name == "qmp_capabilities":
            return (
                "Capabilities negotiation is already complete, command 'qmp_capabilities' ignored"
            )
        if name in ("qmp_capabilities", "quit") or name in self._commands:
            return None
        return f"The command {name} has not been found"

    def _query_commands(self) -> list[JsonObject]:
        return [{"name": name} for name in sorted({*self._commands, "qmp_capabilities", "quit"})]

    def _send(self, message: JsonObject) -> None:
        data = protocol.encode(message)
        with self._send_lock:
            try:
                self._sock.sendall(data)
            except OSError:
                # It has gone, or reads nothing: no further message is to wait for it.
                self.hang_up()
