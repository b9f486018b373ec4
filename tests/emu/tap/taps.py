"""A proxy that runs in a thread of the test, and sockets at both of its ends."""

from __future__ import annotations

import os
import socket
import threading
from typing import TYPE_CHECKING, Self

from emu.tap.proxy import Pair, Proxy
from tests.timeouts import TIMEOUT
from tests.waiting import wait_until
from vhost_user import unix_socket

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from emu.tap.connection import Event


class Tap:
    """A proxy, as a context manager.

    Attributes:
        events: that it has reported.
        notices: lines for the user.
    """

    def __init__(self, pairs: Sequence[Pair], patience: float = TIMEOUT) -> None:
        self.events: list[Event] = []
        self.notices: list[str] = []
        self._stop, self._wake = os.pipe()
        self._proxy = Proxy(pairs, self.events.append, self.notices.append, patience)
        self._thread = threading.Thread(target=self._proxy.run, args=((self._stop,),))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End it, as a signal does; may be called twice."""
        if not self._thread.is_alive():
            return
        os.write(self._wake, b".")
        self._thread.join()
        self._proxy.close()
        os.close(self._stop)
        os.close(self._wake)

    def await_event(self, kind: type[Event], count: int = 1) -> list[Event]:
        """All events of a kind, when there are so many."""
        found: list[Event] = []

        def there() -> bool:
            found[:] = [event for event in list(self.events) if isinstance(event, kind)]
            return len(found) >= count

        wait_until(there, f"{count} {kind.__name__}")
        return found


class Sides:
    """Paths of a pair, with a listening socket at the far side."""

    def __init__(self, folder: Path, *, reverse: bool = False) -> None:
        self.pair = Pair("dev", str(folder / "tap.sock"), str(folder / "end.sock"), reverse)
        self.listener = self.listen()

    def listen(self) -> socket.socket:
        """Listen at the far side."""
        self.listener = unix_socket.bind(self.pair.connect)
        self.listener.listen()
        self.listener.settimeout(TIMEOUT)
        return self.listener

    def dial(self) -> socket.socket:
        """Connect to the tap."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(TIMEOUT)
        sock.connect(self.pair.listen)
        return sock

    def accept(self) -> socket.socket:
        """The tap's connection to the far side."""
        sock, _ = self.listener.accept()
        sock.settimeout(TIMEOUT)
        return sock

    def connected(self) -> tuple[socket.socket, socket.socket]:
        """Both ends of a new connection through the tap."""
        return self.dial(), self.accept()
