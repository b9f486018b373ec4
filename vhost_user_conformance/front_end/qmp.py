"""A QMP client for the front-end under test: it carries out the acts of a session.

The commands are sent, and their responses read, in the loop that also plays the back-end: a
front-end that stops its device waits for the back-end meanwhile.
"""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING, Any

from vhost_user_conformance.front_end.acts import CONT, LOG, LOGGING, MIGRATE, RESET, STOP

if TYPE_CHECKING:
    from pathlib import Path

JsonObject = dict[str, Any]
#: Seconds for which dirty memory is logged.
LOG_SECONDS = 1
#: A response that is longer than this ends the connection.
LONGEST_LINE = 16 << 20
#: The commands for each act; the next one is tried where a front-end does not know a command, or
#: does not know its arguments. Dirty memory is logged for a migration whose data is discarded, or
#: to measure the dirty rate. (QEMU 7.2 crashes with SIGSEGV when it measures the dirty rate with a
#: vhost-user device, so that comes second.) ``{uri}`` is replaced by the destination's address; the
#: second form of this command is that of `emu attach`.
COMMANDS: dict[str, tuple[tuple[str, JsonObject], ...]] = {
    STOP: (("stop", {}),),
    CONT: (("cont", {}),),
    LOG: (
        ("migrate", {"uri": "exec:cat >/dev/null"}),
        ("calc-dirty-rate", {"calc-time": LOG_SECONDS, "mode": "dirty-bitmap"}),
    ),
    RESET: (("system_reset", {}),),
    MIGRATE: (
        ("migrate", {"uri": "{uri}"}),
        ("migrate", {"uri": "{uri}", "strategy": "qemu-now", "options": {}}),
    ),
}
COMMANDS[LOGGING] = COMMANDS[LOG]


class Qmp:
    """A connection to the front-end's QMP server.

    Args:
        path: socket of the server.

    Attributes:
        refusal: description of the error that the last command returned, or "".
        closed: the server has closed the connection, or has sent invalid QMP.

    Raises:
        OSError: no server listens there.
    """

    def __init__(self, path: Path) -> None:
        self._sock = socket.socket(socket.AF_UNIX)
        try:
            self._sock.connect(str(path))
        except OSError:
            self._sock.close()
            raise
        self._sock.setblocking(False)  # noqa: FBT003
        self._data = b""
        self._waiting = 0
        self.refusal = ""
        self.closed = False
        self._others: list[tuple[str, JsonObject]] = []
        self._send("qmp_capabilities", {})

    def fileno(self) -> int:
        """The socket."""
        return self._sock.fileno()

    @property
    def answered(self) -> bool:
        """Whether every command has its response."""
        return self.closed or self._waiting == 0

    def do(self, act: str, *, uri: str = "") -> None:
        """Send the command for this act; ``uri`` is the destination's address."""
        first, *self._others = [
            (command, {name: uri if value == "{uri}" else value for name, value in given.items()})
            for command, given in COMMANDS[act]
        ]
        self._send(*first)

    def _send(self, command: str, arguments: JsonObject) -> None:
        self.refusal = ""
        self._waiting += 1
        request = json.dumps({"execute": command, "arguments": arguments})
        try:
            self._sock.send(request.encode() + b"\r\n")
        except OSError:
            self.closed = True

    def take(self) -> None:
        """Read the responses that have arrived; events are dropped.

        QEMU's qmp-spec: a server ends each message with CRLF.
        """
        try:
            data = self._sock.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        *lines, self._data = (self._data + data).split(b"\n")
        if not data or len(self._data) > LONGEST_LINE:
            self.closed = True
        for line in lines:
            if line.strip():
                self._response(line)

    def _response(self, line: bytes) -> None:
        try:
            message = json.loads(line)
        except ValueError:
            message = None
        if not isinstance(message, dict):
            self.refusal, self.closed = "its response is not QMP", True
            return
        if "return" in message or "error" in message:
            self._waiting -= 1
        error = message.get("error")
        if isinstance(error, dict):
            self.refusal = str(error.get("desc", "refused"))
            if self._others and _unknown(error):
                self._send(*self._others.pop(0))

    def close(self) -> None:
        """Close the connection."""
        self._sock.close()


def _unknown(error: JsonObject) -> bool:
    """Whether the error is about the command's name or arguments, not about what it does."""
    about_arguments = str(error.get("desc", "")).startswith("Parameter ")
    return error.get("class") == "CommandNotFound" or about_arguments
