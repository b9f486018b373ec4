"""A QMP client that sends whatever it likes."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING, Any, Self

from tests.hostile.cell import ANSWER, ClosedByPeer

if TYPE_CHECKING:
    from collections.abc import Collection


class QmpClient:
    """Sends whatever it likes, and reads what comes.

    Args:
        sock: connected; the client has read the greeting when it is made, and closes it.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.sock.settimeout(ANSWER)
        self._file = self.sock.makefile("rb")
        self._events: list[Any] = []
        self.line()

    @classmethod
    def connect(cls, path: str) -> Self:
        """Connect to a unix socket."""
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(ANSWER)
        sock.connect(path)
        return cls(sock)

    def line(self) -> Any:
        """The next message.

        Raises:
            ClosedByPeer: there is none.
        """
        try:
            line = self._file.readline()
        except ConnectionError:
            raise ClosedByPeer from None
        if not line:
            raise ClosedByPeer
        return json.loads(line)

    def ask(self, command: str, /, **arguments: object) -> Any:
        """Execute a command; its answer."""
        text = {
            "execute": command,
            "arguments": {k.replace("_", "-"): v for k, v in arguments.items()},
        }
        self.send(json.dumps(text).encode())
        while "event" in (answer := self.line()):
            self._events.append(answer)
        return answer

    def forget_events(self) -> None:
        """Those that have been read, of what is over."""
        self._events.clear()

    def migration_end(self, statuses: Collection[str], timeout: float) -> Any:
        """The data of the next MIGRATION event with one of these statuses.

        Raises:
            TimeoutError: it has not come in time.
        """
        self.sock.settimeout(timeout)
        try:
            while True:
                event = self._events.pop(0) if self._events else self.line()
                if event.get("event") == "MIGRATION" and event["data"]["status"] in statuses:
                    break
        finally:
            self.sock.settimeout(ANSWER)
        # Users' events have no reason, as QEMU's have none.
        reason = {} if "error-desc" in event["data"] else self.ask("query-migrate")["return"]
        return {**reason, **event["data"]}

    def send(self, data: bytes) -> None:
        """Send bytes.

        Raises:
            ClosedByPeer: the connection is closed.
        """
        try:
            self.sock.sendall(data)
        except ConnectionError:
            raise ClosedByPeer from None

    def close(self) -> None:
        """Disconnect."""
        self._file.close()
        self.sock.close()
