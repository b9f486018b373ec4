"""What a user does to the front-end under test: commands over its QMP socket.

The commands are sent and their answers taken in the loop that also plays the back-end, as a
front-end that stops its device waits for that.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from emu.qmp import protocol
from vhost_user_conformance.front_end.script import (
    CONT,
    LOG,
    RESET,
    STOP,
)

if TYPE_CHECKING:
    from pathlib import Path

    from emu.qmp.protocol import JsonObject

#: Seconds for which dirty memory is logged.
LOG_SECONDS = 1
#: The commands for each act; the next one is tried where a front-end does not know one, or not
#: with these arguments. Dirty memory is logged for a migration, which goes nowhere, or to measure
#: how fast memory becomes dirty. (QEMU 7.2 ends by SIGSEGV when that is measured with a vhost-user
#: device, so it comes second.)
COMMANDS: dict[str, tuple[tuple[str, JsonObject], ...]] = {
    STOP: (("stop", {}),),
    CONT: (("cont", {}),),
    LOG: (
        ("migrate", {"uri": "exec:cat >/dev/null"}),
        ("calc-dirty-rate", {"calc-time": LOG_SECONDS, "mode": "dirty-bitmap"}),
    ),
    RESET: (("system_reset", {}),),
}


class Qmp:
    """A connection to the front-end's monitor.

    Args:
        path: its socket.

    Raises:
        OSError: it does not listen there.
    """

    def __init__(self, path: Path) -> None:
        self._sock = socket.socket(socket.AF_UNIX)
        try:
            self._sock.connect(str(path))
        except OSError:
            self._sock.close()
            raise
        self._sock.setblocking(False)  # noqa: FBT003
        self._buffer = protocol.MessageBuffer()
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
        """Whether all commands have been."""
        return self.closed or self._waiting == 0

    def do(self, act: str) -> None:
        """Have the front-end do it."""
        first, *self._others = COMMANDS[act]
        self._send(*first)

    def _send(self, command: str, arguments: JsonObject) -> None:
        self.refusal = ""
        self._waiting += 1
        try:
            self._sock.send(protocol.encode({"execute": command, "arguments": arguments}))
        except OSError:
            self.closed = True

    def take(self) -> None:
        """Read what has come."""
        try:
            data = self._sock.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.closed = True
            return
        for line in self._buffer.feed(data):
            message = protocol.parse(line)
            if "return" in message or "error" in message:
                self._waiting -= 1
            if "error" in message:
                self.refusal = str(message["error"].get("desc", "refused"))
                if self._others and _unknown(message["error"]):
                    self._send(*self._others.pop(0))

    def close(self) -> None:
        """Hang up."""
        self._sock.close()


def _unknown(error: JsonObject) -> bool:
    """Whether a command was refused for its name or its arguments, and not for what it does."""
    about_arguments = str(error.get("desc", "")).startswith("Parameter ")
    return error.get("class") == "CommandNotFound" or about_arguments
