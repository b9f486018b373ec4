"""The server of a monitor: the process that runs the VM."""

from __future__ import annotations

import inspect
import json
import os
import queue
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from emu.errors import EmuError, MonitorError
from emu.json_input import Each, JsonInputError, Map, Maybe, Real, Shape, check
from emu.qmp import protocol
from emu.qmp.outbox import Outbox
from emu.trace_events import QMP_COMMAND, QMP_EVENT
from vhost_user.errors import VhostUserError

if TYPE_CHECKING:
    import socket

    from emu.qmp.protocol import JsonObject

Handler = Callable[..., object]

#: Seconds of the longest wait: more than a year, and less than what a system call takes.
MAX_SECONDS = 1e8

#: Seconds for a command that is being executed to end after the client has disconnected.
HANG_UP_TIMEOUT = 3.0

#: Seconds for a client to read the last messages before it is disconnected.
FLUSH_TIMEOUT = 2.0

#: Commands that a client may send before the first of them is answered; it waits with the others.
MAX_PENDING = 64

#: The type of an argument, by its annotation's text: its name in JSON, and its shape. Numbers that
#: are not integers are times in seconds.
_TYPES: dict[str, tuple[str, Shape]] = {
    "str": ("string", str),
    "int": ("integer", int),
    "int | None": ("integer", Maybe(int)),
    "float": ("number of seconds", Real(0, MAX_SECONDS)),
    "bool": ("boolean", bool),
    "bool | None": ("boolean", Maybe(bool)),
    "str | None": ("string", Maybe(str)),
    "list[JsonObject]": ("array of objects", Each(Map(object))),
    "list[JsonObject] | None": ("array of objects", Maybe(Each(Map(object)))),
    "list[str] | None": ("array of strings", Maybe(Each(str))),
    "JsonObject": ("object", Map(object)),
    "JsonObject | None": ("object", Maybe(Map(object))),
}


class Command:
    """A handler, and the command's arguments according to its signature.

    A parameter ``reset_gap`` is the command's argument ``reset-gap``. A handler with ``**``
    parameters checks the further arguments itself, and gets them by their own names.
    """

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        parameters = inspect.signature(handler).parameters.values()
        self._parameters = {
            parameter.name: parameter
            for parameter in parameters
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD
        }
        self._open = len(parameters) > len(self._parameters)

    def __call__(self, arguments: JsonObject) -> object:
        """Check the arguments and execute the command.

        Raises:
            MonitorError: an argument is missing, unknown, or of another type.
        """
        given: JsonObject = {}
        for name, value in arguments.items():
            parameter = name.replace("-", "_")
            if parameter in self._parameters:
                given[parameter] = value
            elif self._open:
                given[name] = value
            else:
                raise MonitorError(f"Parameter '{name}' is unexpected")
        for name, parameter_ in self._parameters.items():
            _check(parameter_, name in given, given.get(name))
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
        executing: held while a command is executed: the servers of one VM share it.

    Attributes:
        quit_received: the client has sent ``quit``.
    """

    def __init__(
        self,
        sock: socket.socket,
        commands: Mapping[str, Handler],
        *,
        alone: bool = True,
        executing: threading.Lock | None = None,
    ) -> None:
        self.quit_received = False
        self._sock = sock
        self._outbox = Outbox(sock)
        self._alone = alone
        self._executing = executing or threading.Lock()
        self._commands = {name: Command(handler) for name, handler in commands.items()}
        self._commands["query-commands"] = Command(self._query_commands)
        self._commands["query-version"] = Command(lambda: protocol.VERSION)
        # Those that do not wait for a command of another client.
        self._own = {"qmp_capabilities": Command(self._negotiate), "quit": Command(self._quit)}
        self._negotiated = False
        # The client knows that it has negotiated, and so gets events.
        self._gets_events = False
        self._hung_up = False
        self._inbox: queue.SimpleQueue[bytes | MonitorError | None] = queue.SimpleQueue()
        self._room = threading.Semaphore(MAX_PENDING)
        self._finished = threading.Event()
        self._reader = threading.Thread(target=self._read, name="monitor", daemon=True)

    def serve(self) -> None:
        """Execute commands until the client has disconnected or sent ``quit``.

        Raises any exception of a handler other than `EmuError`, `VhostUserError` and `OSError`:
        that is a bug, and the process should end with its traceback.
        """
        self._reader.start()
        self._respond(protocol.greeting())
        while (received := self._inbox.get()) is not None and not self._hung_up:
            self._room.release()
            if isinstance(received, MonitorError):
                self._respond(protocol.failure(protocol.GENERIC_ERROR, str(received)))
            elif not self._handle(received):
                return

    def emit(self, name: str, data: JsonObject | None = None) -> None:
        """Send an event, unless the client has disconnected or not negotiated yet.

        Never waits: a client that has left too many unread is disconnected.
        """
        if QMP_EVENT.enabled:
            QMP_EVENT.emit(name=name, data=json.dumps(data or {}, separators=(",", ":")))
        if self._gets_events:
            self._outbox.post(protocol.encode(protocol.event(name, data)))

    def hang_up(self) -> None:
        """Have `serve` return once the command that is being executed has ended. From any thread.

        Further commands that the client has sent are not executed.
        """
        self._hung_up = True
        self._outbox.hang_up()

    def close(self) -> None:
        """Disconnect; the process has done what it has to do before it ends."""
        self._finished.set()
        self._outbox.close(FLUSH_TIMEOUT)
        for _ in range(MAX_PENDING):
            self._room.release()  # the reader may wait for room
        self._reader.join()
        self._sock.close()

    def _read(self) -> None:
        buffer = protocol.MessageBuffer()
        try:
            while data := self._sock.recv(1 << 16):
                for message in buffer.feed(data):
                    self._put(message)
        except OSError:
            pass
        except MonitorError as error:  # the message is too long: no further command is recognized
            self._put(error)
        self._inbox.put(None)
        if self._alone and not self._finished.wait(HANG_UP_TIMEOUT):
            os._exit(1)  # a command hangs, and no client is connected

    def _put(self, message: bytes | MonitorError) -> None:
        self._room.acquire()
        self._inbox.put(message)

    def _handle(self, data: bytes) -> bool:
        """Execute a command and respond; returns False after ``quit``."""
        try:
            message = protocol.parse(data)
        except MonitorError as error:
            self._respond(protocol.failure(protocol.GENERIC_ERROR, str(error)))
            return True
        self._respond(protocol.with_id(self._execute(message), message))
        return not self.quit_received

    def _execute(self, message: JsonObject) -> JsonObject:
        try:
            name, arguments = protocol.command_of(message)
        except MonitorError as error:
            return protocol.failure(protocol.GENERIC_ERROR, str(error))
        problem = self._problem_with(name)
        if problem is not None:
            return protocol.failure(protocol.COMMAND_NOT_FOUND, problem)
        if QMP_COMMAND.enabled:
            QMP_COMMAND.emit(name=name)
        try:
            if name in self._own:
                return protocol.success(self._own[name](arguments))
            with self._executing:
                if self._hung_up:
                    raise MonitorError("the monitor is being closed")
                return protocol.success(self._commands[name](arguments))
        except (EmuError, VhostUserError, OSError) as error:
            error_class = error.error_class if isinstance(error, EmuError) else ""
            return protocol.failure(error_class or protocol.GENERIC_ERROR, str(error))

    def _negotiate(self, enable: list[str] | None = None) -> None:
        for capability in enable or ():
            raise MonitorError(f"Capability '{capability}' is not available")
        self._negotiated = True

    def _quit(self) -> None:
        self.quit_received = True

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
        return [{"name": name} for name in sorted({*self._commands, *self._own})]

    def _respond(self, message: JsonObject) -> None:
        self._outbox.respond(protocol.encode(message), sending=self._begin_events)

    def _begin_events(self) -> None:
        """A client may take an event before the response to ``qmp_capabilities`` for an error."""
        self._gets_events = self._negotiated
