"""The client of a monitor: the process that controls a VM."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from emu.errors import CommandError, HangUpError, MonitorError
from emu.json_input import JsonInputError, Map, Members, check
from emu.qmp import protocol

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable

    from emu.qmp.protocol import JsonObject


_EVENT = Members({"event": str}, {"data": Map(object)})
_RETURN = Members({"id": int, "return": object})
_ERROR = Members({"id": int, "error": Members({"class": str, "desc": str})})


class Event(NamedTuple):
    """An event of the VM's process: its name and its data."""

    name: str
    data: JsonObject


class MonitorClient:
    """Controls one VM over a connected stream socket, from one thread.

    Args:
        sock: connected; the client owns it from here on.
        name: the VM's name in error messages.
        waiter: waits for responses.
    """

    def __init__(self, sock: socket.socket, name: str, waiter: Waiter) -> None:
        sock.settimeout(0)
        self.name = name
        self.events: deque[Event] = deque()
        self._sock = sock
        self._waiter = waiter
        self._buffer = protocol.MessageBuffer()
        self._responses: dict[int, JsonObject] = {}
        self._greeted = False
        self._last_id = 0

    def fileno(self) -> int:
        """The socket, to wait for events."""
        return self._sock.fileno()

    def negotiate(self, timeout: float) -> None:
        """Wait for QMP's greeting, and complete the capabilities negotiation.

        Raises:
            MonitorError: no greeting, or not QMP's.
        """
        deadline = time.monotonic() + timeout
        while not self._greeted:
            self._await_data("its greeting", timeout, deadline)
        self.execute("qmp_capabilities", timeout=max(0.0, deadline - time.monotonic()))

    def execute(
        self, command: str, arguments: JsonObject | None = None, *, timeout: float
    ) -> JsonObject:
        """Execute a command; returns its result.

        Raises:
            CommandError: the peer returned an error; the text is the peer's reason.
            HangUpError: the peer has closed the connection.
            MonitorError: no response within ``timeout`` seconds.
        """
        return self.result(self.submit(command, arguments), timeout=timeout)

    def submit(self, command: str, arguments: JsonObject | None = None) -> int:
        """Send a command; returns the identifier for `result`."""
        self._last_id += 1
        message: JsonObject = {"execute": command, "id": self._last_id}
        if arguments:
            message["arguments"] = arguments
        self._send(protocol.encode(message))
        return self._last_id

    def result(self, request_id: int, *, timeout: float) -> JsonObject:
        """Wait for the response to a command that was submitted; raises as `execute`."""
        deadline = time.monotonic() + timeout
        while request_id not in self._responses:
            self._await_data("a response", timeout, deadline)
        response = self._responses.pop(request_id)
        if "error" in response:
            error = response["error"]
            raise CommandError(self.name, error["class"], error["desc"])
        value: Any = response["return"]
        return value if isinstance(value, dict) else {"value": value}

    def receive(self) -> None:
        """Read what has arrived, without waiting; events are appended to `events`.

        Raises:
            HangUpError: the peer has closed the connection.
            MonitorError: the peer sent something other than QMP.
        """
        try:
            data = self._sock.recv(1 << 20)
        except BlockingIOError:
            return
        except OSError as error:
            raise HangUpError(f"{self.name}: {error.strerror}") from None
        if not data:
            raise HangUpError(f"{self.name} hung up")
        for message in self._buffer.feed(data):
            self._take(protocol.parse(message))

    def close(self) -> None:
        """Close the connection; a VM's process then ends."""
        self._sock.close()

    def _send(self, data: bytes) -> None:
        self._sock.settimeout(5.0)
        try:
            self._sock.sendall(data)
        except OSError as error:
            raise HangUpError(f"{self.name}: {error}") from None
        finally:
            self._sock.settimeout(0)

    def _await_data(self, what: str, timeout: float, deadline: float) -> None:
        if not self._waiter.wait((self.fileno(),), deadline - time.monotonic()):
            raise MonitorError(f"{self.name}: waited {timeout:.3g} s for {what}")
        self.receive()

    def _take(self, message: JsonObject) -> None:
        if "QMP" in message:
            self._greeted = True
            return
        try:
            if "event" in message:
                event = check(message, _EVENT)
                self.events.append(Event(event["event"], event.get("data", {})))
                return
            response = check(message, _ERROR if "error" in message else _RETURN)
        except JsonInputError as error:
            text = f"{self.name}: {str(message)[:200]} is not a response to any command: {error}"
            raise MonitorError(text) from None
        self._responses[response["id"]] = response


class Waiter(Protocol):
    """Waits until one of some descriptors is readable."""

    def wait(self, fds: Iterable[int], timeout: float) -> list[int]:
        """Those of ``fds`` that are readable; empty when ``timeout`` seconds have passed."""
