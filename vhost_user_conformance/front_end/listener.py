"""The socket on which the suite awaits a front-end."""

from __future__ import annotations

import contextlib
import select
import time
from typing import TYPE_CHECKING

from vhost_user import unix_socket
from vhost_user_conformance.errors import PeerError

if TYPE_CHECKING:
    import socket
    from pathlib import Path

    from vhost_user_conformance.peer.program import PeerProgram

#: Milliseconds between two checks whether the program has ended.
_POLL_MS = 100


class FrontEndListener:
    """Listens on a socket for a front-end.

    Args:
        path: of the socket, which `close` leaves.
        program: that connects; None if the suite has not started it.

    Raises:
        PeerError: the suite cannot listen there.
    """

    def __init__(self, path: Path, program: PeerProgram | None) -> None:
        self._program = program
        try:
            self._listener = unix_socket.bind(str(path))
            self._listener.listen(8)
        except OSError as error:
            why = error.strerror or error
            raise PeerError(f"{path}: cannot listen there: {why}") from None
        self._listener.setblocking(False)  # noqa: FBT003

    def close(self) -> None:
        """Close and remove the socket."""
        self._listener.close()

    def drop_pending(self) -> None:
        """Close the connections of an earlier program that wait to be accepted."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self._listener.accept()[0].close()

    def accept(self, timeout: float) -> socket.socket | None:
        """The next connection; None if none comes within ``timeout`` seconds.

        A program that has ended is not waited for.
        """
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if poll.poll(_POLL_MS):
                return self._listener.accept()[0]
            if self._program is not None and not self._program.running:
                return None
        return None
