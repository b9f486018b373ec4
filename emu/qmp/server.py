"""The server of a monitor: the process that runs the VM."""

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
from emu.json_input import Each, JsonInputError, Map, Maybe, Real, Shape, check
from emu.qmp import protocol
from emu.trace_events import QMP_COMMAND, QMP_EVENT
from vhost_user.errors import VhostUserError

if TYPE_CHECKING:
    from emu.qmp.protocol import JsonObject

Handler = Callable[..., object]

#: Seconds of the longest wait: more than a year, and less than what a system call takes.
MAX_SECONDS = 1e8

#: Seconds for a command that is being executed to end after the client has disconnected.
HANG_UP_TIMEOUT = 3.0

#: Seconds for a client to read what it is sent: the thread that sends an event has other work.
SEND_TIMEOUT = 30

#: The type of an argument, by its annotation's text: its name in JSON, and its shape. Numbers that
#: are not integers are times in seconds.
_TYPES: dict[str, tuple[str, Shape]] = {
    "str": ("string", str),
    "int": ("integer", int),
    "int | None": ("integer", Maybe(int)),
    "float": ("number of seconds", Real(0, MAX_SECONDS)),
    "bool": ("boolean", bool),
    "list[str] | None": ("array of strings", Maybe(Each(str))),
    "JsonObject": ("object", Map(object)),
    "JsonObject | None": ("object", Maybe(Map(object))),
}


class Command:
    """A handler, and the command's arguments according to its signature.

    A parameter ``reset_gap`` is the command's argument ``reset-gap``.
    """

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._parameters = inspect.signature(handler).parameters

    def __call__(self, arguments: JsonObject) -> object:
        """Check the arguments and execute the command.

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
    expected, shape = _TYPES[str(parameter.annotation)]
    try:
        check(value, shape)
    except JsonInputError:
        raise MonitorError(f"Invalid parameter type for '{name}', expected: {expected}") from None


class MonitorServer:
    """Serves one client on a connected stream socket.

    The thread that calls `serve` executes commands one after the other; any thread may send events.
    Another thread reads, so that it detects a disconnect while a command is being executed: a VM
    that no client controls must not remain.

    Args:
        sock: connected; the server owns it from here on.
        commands: handlers by the command's name.
        alone: no other client controls the VM, so that the process ends if a command hangs after
            the client has disconnected.

    Attributes:
        quit_received: the client has sent ``quit``.
    """

    def __init__(
        self, sock: socket.socket, commands: Mapping[str, Handler], *, alone: bool = True
    ) -> None:
        self.quit_received = False
        self._sock = sock
        # Only sends have a timeout: a command may arrive at any time.
        timeval = struct.pack("@ll", SEND_TIMEOUT, 0)
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
        """Execute commands until the client has disconnected or sent ``quit``.

        Raises any exception of a handler other than `EmuError`, `VhostUserError` and `OSError`:
        that is a bug, and the process should end with its traceback.
        """
        self._reader.start()
        self._send(protocol.greeting())
        while (data := self._inbox.get()) is not None:
            if not self._respond(data):
                return

    def emit(self, name: str, data: JsonObject | None = None) -> None:
        """Send an event, unless the client has disconnected or not negotiated yet."""
        if QMP_EVENT.enabled:
            QMP_EVENT.emit(name=name, data=json.dumps(data or {}, separators=(",", ":")))
        if self._negotiated:
            self._send(protocol.event(name, data))

    def hang_up(self) -> None:
        """Have `serve` return once no command is being executed. From any thread."""
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)  # wakes the reader, which a close would not

    def close(self) -> None:
        """Disconnect; the process has done what it has to do before it ends."""
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
            pass  # in either case no further command arrives
        self._inbox.put(None)
        if self._alone and not self._finished.wait(HANG_UP_TIMEOUT):
            os._exit(1)  # a command hangs, and no client is connected

    def _respond(self, data: bytes) -> bool:
        try:
            message = protocol.parse(data)
        except MonitorError as error:
            self._send(protocol.failure(protocol.GENERIC_ERROR, str(error)))
            return True
        name = message.get("execute")
        self._send(self._execute(name, message.get("arguments", {}), message.get("id")))
        self.quit_received = name == "quit" and self._negotiated
        return not self.quit_received

    def _execute(self, name: object, arguments: object, request_id: Any) -> JsonObject:
        if not isinstance(name, str) or not isinstance(arguments, dict):
            text = "QMP input lacks member 'execute', or 'arguments' is not an object"
            return protocol.failure(protocol.GENERIC_ERROR, text, request_id)
        problem = self._problem_with(name)
        if problem is not None:
            return protocol.failure(protocol.COMMAND_NOT_FOUND, problem, request_id)
        if name in ("qmp_capabilities", "quit"):
            self._negotiated = True
            return protocol.success(None, request_id)
        if QMP_COMMAND.enabled:
            QMP_COMMAND.emit(name=name)
        try:
            return protocol.success(self._commands[name](arguments), request_id)
        except (EmuError, VhostUserError, OSError) as error:
            return protocol.failure(protocol.GENERIC_ERROR, str(error), request_id)

    def _problem_with(self, name: str) -> str | None:
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
                # The client has disconnected or does not read: no further message waits for it.
                self.hang_up()
