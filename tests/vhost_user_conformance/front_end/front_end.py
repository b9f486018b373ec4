"""A front-end that the test plays: it connects to the suite's socket and sends messages."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING

from tests.timeouts import TIMEOUT
from vhost_user_conformance.peer.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path


class PlayedFrontEnd:
    """A thread that connects once for each of these functions.

    Args:
        path: where the suite listens, by now.
        visits: each is called with a new connection, which is closed when it returns.
    """

    def __init__(self, path: Path, *visits: Callable[[Wire], None]) -> None:
        self._path = path
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._run, args=(visits,), daemon=True)
        self._thread.start()

    def _run(self, visits: Sequence[Callable[[Wire], None]]) -> None:
        try:
            for visit in visits:
                sock = socket.socket(socket.AF_UNIX)
                sock.connect(str(self._path))
                wire = Wire(sock, {}, TIMEOUT)
                visit(wire)
                wire.close()
        except Exception as error:  # noqa: BLE001  the test raises it
            self.error = error

    def finish(self) -> None:
        """Return when all visits are over; raises what one of them raised."""
        self._thread.join(TIMEOUT)
        assert not self._thread.is_alive()
        if self.error is not None:
            raise self.error
