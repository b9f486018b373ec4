"""The destination of a migration: a second program, with which the suite has a session of its own.

The guest's rings are stopped in the session with the source, and started in that with the
destination.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from vhost_user_conformance.front_end.acts import MIGRATE, START
from vhost_user_conformance.front_end.listener import FrontEndListener
from vhost_user_conformance.front_end.recording import NAMES, F
from vhost_user_conformance.front_end.session import Session
from vhost_user_conformance.peer.program import PeerProgram
from vhost_user_conformance.peer.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from vhost_user_conformance.front_end.qmp import Qmp

#: Seconds without a message after which a program is ready, or an act is over.
SETTLED = 0.3
#: Seconds for which one of the two sessions is served before the other is.
_TURN = 0.01


class _Still:
    """Whether a value has not changed for `SETTLED` seconds.

    Args:
        read: reads the value.
    """

    def __init__(self, read: Callable[[], object]) -> None:
        self._read = read
        self._last = read()
        self._since = time.monotonic()

    def __call__(self) -> bool:
        value, now = self._read(), time.monotonic()
        if value != self._last:
            self._last, self._since = value, now
        return now - self._since >= SETTLED


class Destination:
    """A program that awaits the VM, and the suite's session with it.

    Args:
        command: starts it; ``{socket}`` in it is the path of its back-end, ``{incoming}`` the path
            of the unix socket where it awaits the migration.
        folder: for its sockets and its output.
        timeout: seconds for each answer.

    Raises:
        OptionError: the command is invalid.
    """

    def __init__(self, command: str, folder: Path, timeout: float) -> None:
        self._path, self._incoming = folder / "dest.sock", folder / "in.sock"
        self._program = PeerProgram(
            command,
            self._path,
            folder / "dest.log",
            incoming=self._incoming,
            listens=False,
            option="--destination",
        )
        self._timeout = timeout
        self._owned = contextlib.ExitStack()
        self._session: Session | None = None

    def receive(self, source: Session, qmp: Qmp, limit: float) -> str:
        """Start the program, and have the source migrate its VM to it.

        Args:
            source: the session with the source; it has the destination's recording afterwards.
            qmp: of the source.
            limit: seconds for each step.

        Returns:
            The reason why the VM did not arrive, or "".

        Raises:
            PeerError: the program cannot be started, or the suite cannot listen.
        """
        session = self._start(source, limit)
        if session is None:
            return self._why("no destination connects", limit)
        source.recording.second = session.recording
        if not self._serve(source, session, lambda: self._awaits(session), limit):
            return self._why("the destination does not await a VM", limit)
        # What a back-end writes from now on it would have to log: it writes nothing.
        source.stop_serving()
        # A driver that can make no further request available does not kick by itself.
        self._serve(source, session, _Still(source.available), self._timeout)
        qmp.do(MIGRATE, uri=f"unix:{self._incoming}")
        self._serve(
            source, session, lambda: bool(qmp.refusal) or self._arrived(session), limit, qmp
        )
        if qmp.refusal:
            return f"the front-end refused to {MIGRATE}: {qmp.refusal}"
        if not session.recording.of(F.SET_VRING_KICK):
            return self._why("the destination starts no ring", limit)
        return ""

    def close(self) -> None:
        """End the session and the program."""
        self._owned.close()
        self._session = None

    def _start(self, source: Session, limit: float) -> Session | None:
        listener = FrontEndListener(self._path, self._program)
        with contextlib.closing(listener):
            self._program.start()
            self._owned.callback(self._program.stop)
            sock = listener.accept(limit)
        if sock is None:
            return None
        script = source.script._replace(acts=(START,), asks=None)
        session = Session(Wire(sock, NAMES, self._timeout), script, source.row, source.device)
        self._owned.callback(session.close)
        return session

    def _awaits(self, session: Session) -> bool:
        return session.quiet(SETTLED) and self._incoming.exists()

    def _arrived(self, session: Session) -> bool:
        """Whether rings were started, and those with requests kicked for or not in time."""
        recording = session.recording
        if not recording.of(F.SET_VRING_KICK):
            return False
        waiting = {start.ring for start in recording.ring_starts if start.waiting}
        return session.quiet(SETTLED if waiting <= recording.kicked() else self._timeout)

    @staticmethod
    def _serve(
        source: Session,
        session: Session,
        done: Callable[[], bool],
        limit: float,
        qmp: Qmp | None = None,
    ) -> bool:
        """Serve both sessions until ``done()``; False after the limit, or when one is over."""
        deadline = time.monotonic() + limit
        while not done():
            if session.over or time.monotonic() > deadline:
                return False
            source.pump(done, _TURN, qmp)
            session.pump(done, _TURN)
        return True

    def _why(self, what: str, limit: float) -> str:
        if not self._program.ends_within(SETTLED):
            return f"{what} within {limit:g} s"
        return f"{what}: it ended {self._program.exit_description}"
