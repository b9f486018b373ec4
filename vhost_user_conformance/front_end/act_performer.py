"""Carries out the acts of a session, and waits until the front-end has reacted to each."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, NamedTuple

from vhost_user.features import VHOST_F_LOG_ALL
from vhost_user_conformance.errors import PeerError
from vhost_user_conformance.front_end.acts import (
    ASKED,
    CONT,
    END,
    LOG,
    LOGGING,
    MIGRATE,
    RESET,
    START,
)
from vhost_user_conformance.front_end.qmp import Qmp
from vhost_user_conformance.front_end.recording import STOPS, F
from vhost_user_conformance.peer.program import CONNECT_FACTOR

if TYPE_CHECKING:
    from pathlib import Path

    from vhost_user_conformance.front_end.destination import Destination
    from vhost_user_conformance.front_end.script import Script
    from vhost_user_conformance.front_end.session import Session
    from vhost_user_conformance.peer.program import PeerProgram

#: Seconds for each act but START.
ACT_TIMEOUT = 6.0
#: A guest may start a ring within this many times the time limit for an answer, since it boots.
BOOT_FACTOR = 10
#: Seconds without a message after which an act is over. The shorter limit applies where the QMP
#: command has returned, or as many messages have come as in the plain session.
SETTLED, SETTLED_SHORT = 0.3, 0.1
#: Limit for the start of a ring: this many times the duration in the plain session, and this many
#: seconds more, as the host may be busy.
START_FACTOR, START_EXTRA = 4, 6.0
#: Seconds between two attempts to connect to the QMP server.
_CONNECT_INTERVAL = 0.02
NO_DESTINATION = "needs --destination: a command that starts the destination of a migration"
NO_QMP = "needs {qmp} in --exec: a path where the front-end serves QMP"


class PlainStart(NamedTuple):
    """The start in the first session, the plain one, or in the first in which a ring was started.

    Other starts are measured by it.

    Attributes:
        started: a ring was started.
        seconds: duration.
        messages: number of messages until the front-end was quiet.
        pause: the longest time between two messages, in seconds.
    """

    started: bool
    seconds: float
    messages: int
    pause: float


class ActPerformer:
    """Carries out acts on one front-end.

    Args:
        program: of the front-end; None if the suite has not started it.
        qmp: path of the program's QMP socket, or None.
        timeout: seconds for each answer.
        destination: of migrations; None if there is none.
    """

    def __init__(
        self,
        program: PeerProgram | None,
        qmp: Path | None,
        timeout: float,
        destination: Destination | None = None,
    ) -> None:
        self._destination = destination
        self._program = program
        self._qmp_path = qmp
        self._timeout = timeout
        self._plain: PlainStart | None = None

    def perform(self, session: Session) -> None:
        """Carry out the acts of the session's script, and record which were done.

        Raises:
            PeerError: no QMP server listens on the path.
        """
        recording = session.recording
        with contextlib.ExitStack() as owned:
            qmp = self._connect_qmp()
            if qmp is not None:
                owned.callback(qmp.close)
            for act in session.script.acts:
                if session.over or (START in recording.undone and not recording.messages):
                    break
                if START in recording.undone and act != END:
                    recording.undone[act] = recording.undone[START]
                    continue
                session.act = act
                self._record(session, act, self._perform(act, session, qmp))

    def start_again(self, session: Session) -> None:
        """START in a session with a front-end that has reconnected."""
        self._record(session, START, self._start(session, None))

    @staticmethod
    def _record(session: Session, act: str, undone: str) -> None:
        if undone:
            session.recording.undone[act] = undone
        else:
            session.recording.acts.append(act)

    def _connect_qmp(self) -> Qmp | None:
        """Connect to the QMP server, which may start later than the vhost-user device."""
        if self._qmp_path is None:
            return None
        deadline = time.monotonic() + CONNECT_FACTOR * self._timeout
        while True:
            try:
                return Qmp(self._qmp_path)
            except OSError as error:
                if time.monotonic() > deadline:
                    raise PeerError(f"{{qmp}}: {self._qmp_path}: {error.strerror}") from None
                time.sleep(_CONNECT_INTERVAL)  # there is no event when a server listens

    def _perform(self, act: str, session: Session, qmp: Qmp | None) -> str:
        """Carry out one act. Returns the reason why it was not done, or ""."""
        if act == START:
            return self._start(session, qmp)
        if act == END:
            return self._end(session, qmp)
        if act == ASKED and session.script.asks is not None:
            session.script.asks(session)
            return ""
        if qmp is None:
            return NO_QMP
        limit = max(ACT_TIMEOUT, BOOT_FACTOR * self._timeout)  # a host may be busy
        if act == MIGRATE:
            if self._destination is None:
                return NO_DESTINATION
            return self._destination.receive(session, qmp, limit)
        qmp.do(act)
        if not session.pump(lambda: qmp.answered, limit, qmp):
            if session.over:
                return f"the front-end closed the connection at {act}"
            return f"the front-end did not answer {act} within {limit:g} s"
        if qmp.refusal:
            return f"the front-end refused to {act}: {qmp.refusal}"
        reached = {LOG: _logged, LOGGING: _logging, RESET: _restarted}.get(act, _answered)
        # A device is reset while its memory is logged: there is no time to wait until all is quiet.
        quiet = {RESET: SETTLED, LOGGING: 0.0}.get(act, SETTLED_SHORT)
        session.pump(lambda: session.quiet(quiet) and reached(session), ACT_TIMEOUT, qmp)
        if act in (CONT, RESET) and self._program is not None and not session.over:
            session.recording.open_files.append(self._program.descriptors)
        return ""

    def _start(self, session: Session, qmp: Qmp | None) -> str:
        begin = time.monotonic()
        timeout = self._start_timeout(session.script)
        session.pump(lambda: self._start_is_over(session), timeout, qmp)
        if self._plain is None or (session.running and not self._plain.started):
            took = time.monotonic() - begin
            count = len(session.recording.messages)
            self._plain = PlainStart(session.running, took, count, session.longest_pause)
        if session.running:
            return ""
        if session.over:
            return "the front-end closed the connection before it started a ring"
        waited = time.monotonic() - begin
        return f"no guest started a ring within {waited:.2g} s"

    def _start_timeout(self, script: Script) -> float:
        """Seconds for the start of a ring: the boot's limit until the plain start was measured."""
        boot = self._timeout * BOOT_FACTOR
        if self._plain is None:
            return boot
        delays = script.delay * self._plain.messages
        return min(self._plain.seconds * START_FACTOR, boot) + START_EXTRA + delays

    def _start_is_over(self, session: Session) -> bool:
        """Whether no further message of the start is to be expected."""
        plain, count = self._plain, len(session.recording.messages)
        if session.running:
            complete = plain is not None and count >= plain.messages
            return session.quiet(SETTLED_SHORT if complete else SETTLED)
        if session.recording.marks:
            # The front-end may wait before it reacts to an invalid reply.
            return session.quiet(self._timeout)
        if plain is None or plain.started:
            return False
        # Its guest did not start a ring in the plain session either.
        return session.quiet(max(SETTLED, 2 * plain.pause + session.script.delay))

    def _end(self, session: Session, qmp: Qmp | None) -> str:
        if self._program is None:
            return "the suite has not started the front-end, and does not end it: use --exec"
        self._program.ask_to_end()
        deadline = time.monotonic() + ACT_TIMEOUT
        session.pump(lambda: False, ACT_TIMEOUT, qmp)
        self._program.ends_within(max(0.0, deadline - time.monotonic()))
        session.recording.left = False
        return ""


def _answered(_session: Session) -> bool:
    """The QMP command has returned already."""
    return True


def _logged(session: Session) -> bool:
    """Logging was switched off again, or the rings were stopped as for a migration."""
    changes = session.recording.of(F.SET_FEATURES, *STOPS, act=LOG)
    last = changes[-1] if changes else None
    if last is None or last.id in STOPS:
        return last is not None
    return not last.u64 >> VHOST_F_LOG_ALL & 1


def _logging(session: Session) -> bool:
    """Logging is on, and each ring has its log address."""
    changes = session.recording.of(F.SET_FEATURES, act=LOGGING)
    rings = {each.ring for each in session.recording.of(F.SET_VRING_KICK)}
    logged = {each.ring for each in session.recording.of(F.SET_VRING_ADDR, act=LOGGING)}
    return bool(changes) and rings <= logged


def _restarted(session: Session) -> bool:
    return bool(session.recording.of(*STOPS, act=RESET)) and session.running
