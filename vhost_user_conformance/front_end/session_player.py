"""Plays the back-end in sessions with the front-end under test."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from vhost_user_conformance.errors import PeerError
from vhost_user_conformance.front_end.act_performer import ACT_TIMEOUT, ActPerformer
from vhost_user_conformance.front_end.acts import END, START
from vhost_user_conformance.front_end.listener import FrontEndListener
from vhost_user_conformance.front_end.recording import NAMES
from vhost_user_conformance.front_end.session import Session
from vhost_user_conformance.peer.program import CONNECT_FACTOR
from vhost_user_conformance.peer.wire import Wire

if TYPE_CHECKING:
    from pathlib import Path

    from vhost_user_conformance.front_end.destination import Destination
    from vhost_user_conformance.front_end.recording import Recording
    from vhost_user_conformance.front_end.script import Script
    from vhost_user_conformance.model.device_class import DeviceClass
    from vhost_user_conformance.peer.program import PeerProgram

#: Seconds for the program to end after it was asked to, where the script does not record that.
END_TIMEOUT = 3.0
#: Seconds within which a front-end reconnects or ends after the connection was closed.
RECONNECT_TIMEOUT = 0.5
#: Seconds between two checks whether the program has ended.
_POLL = 0.05


class SessionPlayer:
    """Listens on the socket, starts the program for each session, and plays the script.

    Args:
        path: the socket.
        program: what to start; None if it runs already.
        qmp: path of the program's QMP socket, or None.
        row: class of device.
        timeout: seconds for each answer.
        destination: of migrations; None if there is none.

    Attributes:
        gone: why the front-end could not be reached in an earlier session, or "".
        row: class of device, with what it offers.

    Raises:
        PeerError: the suite cannot listen there.
    """

    def __init__(
        self,
        path: Path,
        program: PeerProgram | None,
        *,
        qmp: Path | None,
        row: DeviceClass,
        timeout: float,
        destination: Destination | None = None,
    ) -> None:
        self.gone = ""
        self._path = path
        self._program = program
        self.row = row
        self._timeout = timeout
        self._destination = destination
        self._performer = ActPerformer(program, qmp, timeout, destination)
        #: One that did not reconnect in an earlier session is not waited for that long again.
        self._reconnects = True
        self._listener = FrontEndListener(path, program)

    def close(self) -> None:
        """Close and remove the socket."""
        self._listener.close()

    def play(self, script: Script) -> Recording:
        """Start the front-end, play the script, and end the front-end.

        Raises:
            PeerError: it does not connect.
        """
        if self._program is None and self.gone:
            raise PeerError(self.gone)
        try:
            if self._program is not None:
                self._listener.drop_pending()
                self._program.start()
            with contextlib.ExitStack() as owned:
                first = Session(self._accept(), script, self.row)
                owned.callback(first.close)
                recording, last = first.recording, first
                try:
                    self._performer.perform(first)
                    reconnected = self._record_end(first)
                    if reconnected is not None:
                        last = self._second(first, reconnected)
                        owned.callback(last.close)
                finally:
                    self._end_program(last)
        finally:
            if self._destination is not None:
                self._destination.close()
            if self._program is not None:
                self._program.stop()
        return recording

    def _second(self, first: Session, wire: Wire) -> Session:
        """Continue with a front-end that has reconnected, until a ring runs."""
        script = first.script
        script = script._replace(
            reactions=(),
            asks=None,
            acts=(START,),
            idle=False,
            without=script.second_without,
            protocol_without=script.second_protocol_without,
            queues=script.second_queues,
        )
        session = Session(wire, script, self.row, first.device)
        first.recording.second = session.recording
        self._performer.start_again(session)
        return session

    def _end_program(self, session: Session) -> None:
        """Ask the program to end, and answer it meanwhile, without recording its messages."""
        program = self._program
        session.stop_recording()
        if program is None:
            return
        program.ask_to_end()
        deadline = time.monotonic() + END_TIMEOUT
        while program.running and time.monotonic() < deadline:
            self._listener.drop_pending()
            if session.over:
                program.ends_within(_POLL)
            else:
                session.pump(lambda: not program.running, _POLL)

    def _accept(self) -> Wire:
        # After one failure to connect the wait is short: many cases may follow.
        timeout = self._timeout * (1 if self.gone else CONNECT_FACTOR)
        sock = self._listener.accept(timeout)
        if sock is None:
            program = self._program
            if program is not None and not program.running:
                raise PeerError(f"--exec: the program ended {program.exit_description}")
            raise PeerError(f"no front-end connects to {self._path} within {timeout:.3g} s")
        return Wire(sock, NAMES, self._timeout)

    def _record_end(self, session: Session) -> Wire | None:
        """Record whether the program has ended by itself, or reconnects.

        Returns:
            The new connection, if it reconnects and the script plays a second session.
        """
        program, recording = self._program, session.recording
        asked_to_end = END in recording.acts
        if program is not None and not asked_to_end and session.over:
            program.ends_within(RECONNECT_TIMEOUT)
        if program is not None and not program.running:
            recording.crashed = program.crashed and not (asked_to_end and program.terminated)
            recording.ended = program.exit_description
        elif session.over and not asked_to_end:
            returns = session.script.returns
            patient = returns and self._reconnects
            sock = self._listener.accept(ACT_TIMEOUT if patient else RECONNECT_TIMEOUT)
            recording.reconnected = sock is not None
            if returns:
                self._reconnects = sock is not None
            if sock is not None and returns:
                return Wire(sock, NAMES, self._timeout)
            if sock is not None:
                sock.close()
        return None
