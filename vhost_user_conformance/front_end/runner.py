"""Runs the cases of a front-end: plays its back-end in sessions, and has the cases look."""

from __future__ import annotations

import contextlib
import select
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from vhost_user import unix_socket
from vhost_user.features import VHOST_F_LOG_ALL
from vhost_user_conformance.errors import PeerError
from vhost_user_conformance.front_end.acts import ASKED, CONT, END, LOG, RESET, START
from vhost_user_conformance.front_end.qmp import Qmp
from vhost_user_conformance.front_end.recording import F
from vhost_user_conformance.front_end.session import Session
from vhost_user_conformance.front_end.tester import FrontEnd
from vhost_user_conformance.model.result import CaseResult, Offered, evidence
from vhost_user_conformance.model.verdict import CaseEnd, Verdict
from vhost_user_conformance.peer.runner import CaseRunner
from vhost_user_conformance.peer.wire import Wire

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable
    from pathlib import Path

    from vhost_user_conformance.front_end.recording import Recording
    from vhost_user_conformance.front_end.script import Script
    from vhost_user_conformance.model.case import Case
    from vhost_user_conformance.peer.program import PeerProgram

NAMES = {member.value: member.name for member in F}
#: A front-end may take as many times the timeout for an answer to connect, and then its guest to
#: start a ring: it has to boot.
BOOT = 10
#: Seconds for each of the other acts, and for the program to go when it is told to.
ACT_TIMEOUT = 6.0
END_TIMEOUT = 3.0
#: Seconds without a message after which a front-end has said what it has to say; and where it has
#: answered for what it was told to do, or has said as much as in the plain session.
SETTLED = 0.3
BRIEFLY = 0.1
#: Seconds in which a front-end that was left connects anew or ends, if it does.
RETURN_TIMEOUT = 0.5
#: A ring that is not started in this many times the time that it took first is not started. The
#: seconds are for a machine that is busy.
SLOWER, SLOWER_BY = 4, 6.0
#: Seconds between two looks at whether a program has ended.
_LOOK = 0.05
NO_QMP = "needs {qmp} in --exec: a path where the front-end serves QMP"


class Usual(NamedTuple):
    """What the plain session's start was like: so other sessions' starts are expected to be.

    Attributes:
        started: a ring was started.
        seconds: that it took.
        messages: how many were sent until all was quiet.
        pause: the longest time without a message before the last one, in seconds.
    """

    started: bool
    seconds: float
    messages: int
    pause: float


class FrontEndRunner(CaseRunner):
    """One front-end under test. See `CaseRunner`.

    The suite listens on the socket. A program is started for each session; a boot may take `BOOT`
    times the timeout.

    Args:
        path, program, settings: see `CaseRunner`.
        qmp: where the program serves QMP, or None.

    Raises:
        PeerError: there can be no socket there.
    """

    LACKS = "the front-end does not acknowledge {}: it is not offered or not wanted"

    def __init__(
        self, path: Path, program: PeerProgram | None, *, qmp: Path | None, **settings: Any
    ) -> None:
        super().__init__(path, program, **settings)
        self._qmp_path = qmp
        self._tester = FrontEnd(self._device, self._timeout, self._play)
        self._usual: Usual | None = None
        self._listener = self._listen()

    def _listen(self) -> socket.socket:
        try:
            listener = unix_socket.bind(str(self._path))
            listener.listen(8)
        except OSError as error:
            why = error.strerror or error
            raise PeerError(f"{self._path}: cannot listen there: {why}") from None
        listener.setblocking(False)  # noqa: FBT003
        return listener

    def close(self) -> None:
        """Listen no more."""
        self._listener.close()
        self._path.unlink(missing_ok=True)

    def probe(self) -> Offered:
        """Play the plain session: what the front-end acknowledges in it, and how many rings it has.

        Raises:
            PeerError: no front-end connects, or it says nothing that could be understood.
        """
        recording = self._tester.plain()
        if not recording.messages:
            came = "; ".join(recording.transcript[:2]) or "it says nothing"
            raise PeerError(f"what connects to {self._path} is no vhost-user front-end: {came}")
        last = recording.messages[-1]
        if START in recording.undone and not recording.of(F.SET_OWNER, F.SET_FEATURES):
            raise PeerError(f"the front-end does not go on after {last}: {recording.undone[START]}")
        self.offered = Offered(last.features or 0, last.protocol, len(recording.rings()))
        return self.offered

    def guard(self, cases: Iterable[Case]) -> None:
        """As `CaseRunner.guard`: the disk is the suite's own."""

    def record(self, script: Script) -> Recording:
        """Play a session, for others than the cases to look at. Raises as `probe`."""
        return self._tester.session(script)

    def _run(self, case: Case) -> CaseResult:
        missing = self._missing(case)
        if missing:
            return CaseResult(case, Verdict.UNSUPPORTED, "", missing, 0.0)
        begin = time.monotonic()
        self._tester.shown = []
        line: int | None = None
        try:
            case.run(self._tester)
        except CaseEnd as end:
            verdict, expected, seen, line = end.verdict, end.expected, end.seen, end.line
        except PeerError as error:
            self._gone = self._gone or f"at {case.id}: {error}"
            verdict, expected, seen = Verdict.ERROR, "", f"there was no session: {error}"
        except Exception as error:  # noqa: BLE001  whatever it is, it says nothing of the peer
            verdict, expected, seen = Verdict.ERROR, "", f"{type(error).__name__}: {error}"
        else:
            verdict, expected, seen = Verdict.PASS, "", ""
        if verdict in (Verdict.FAIL, Verdict.ERROR):
            seen = evidence(seen, self._tester.shown[:line])
        return CaseResult(case, verdict, expected, seen, (time.monotonic() - begin) * 1e3)

    # -- a session

    def _play(self, script: Script) -> Recording:
        """Start the front-end, play the script, and end it.

        Raises:
            PeerError: it does not connect.
        """
        if self._program is None and self._gone:
            raise PeerError(self._gone)
        try:
            if self._program is not None:
                self._forget_callers()
                self._program.start()
            with contextlib.ExitStack() as owned:
                first = Session(self._accept(), script, self._device)
                owned.callback(first.close)
                recording, last = first.recording, first
                try:
                    self._acts(first)
                    caller = self._look_at_end(first)
                    if caller is not None:
                        last = self._second(first, caller)
                        owned.callback(last.close)
                finally:
                    self._end_program(last)
        finally:
            if self._program is not None:
                self._program.stop()
        return recording

    def _second(self, first: Session, caller: Wire) -> Session:
        """Play on with a front-end that has connected anew, until a ring runs."""
        script = first.script._replace(
            reactions=(), asks=None, acts=(START,), without=first.script.second_without
        )
        session = Session(caller, script, self._device, first.work)
        first.recording.second = session.recording
        undone = self._start(session, None)
        if undone:
            session.recording.undone[START] = undone
        else:
            session.recording.acts.append(START)
        return session

    def _end_program(self, session: Session) -> None:
        """Let the program go in peace, which it cannot while nobody answers it.

        What it says to that is of interest only where the script tells it to end.
        """
        program = self._program
        session.leave_unrecorded()
        if program is None:
            return
        program.ask_to_end()
        deadline = time.monotonic() + END_TIMEOUT
        while program.running and time.monotonic() < deadline:
            self._forget_callers()
            if session.over:
                program.ends_within(_LOOK)
            else:
                session.pump(lambda: not program.running, _LOOK)

    def _forget_callers(self) -> None:
        """Refuse what an earlier program left in the queue."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self._listener.accept()[0].close()

    def _accept(self) -> Wire:
        # One that has failed to connect once is not waited for as long again.
        timeout = self._timeout * (1 if self._gone else BOOT)
        sock = self._await_caller(timeout)
        if sock is None:
            program = self._program
            if program is not None and not program.running:
                raise PeerError(f"--exec: the program ended {program.exit_description}")
            raise PeerError(f"no front-end connects to {self._path} within {timeout:.3g} s")
        return Wire(sock, NAMES, self._timeout)

    def _await_caller(self, timeout: float) -> socket.socket | None:
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if poll.poll(100):
                return self._listener.accept()[0]
            if self._program is not None and not self._program.running:
                return None
        return None

    def _acts(self, session: Session) -> None:
        recording = session.recording
        with contextlib.ExitStack() as owned:
            qmp = self._monitor()
            if qmp is not None:
                owned.callback(qmp.close)
            for act in session.script.acts:
                if session.over or (START in recording.undone and not recording.messages):
                    break
                if START in recording.undone and act != END:
                    recording.undone[act] = recording.undone[START]
                    continue
                session.act = act
                why_not = self._act(act, session, qmp)
                if why_not:
                    recording.undone[act] = why_not
                else:
                    recording.acts.append(act)

    def _monitor(self) -> Qmp | None:
        """A connection to the front-end's monitor, which served since before it connected."""
        if self._qmp_path is None:
            return None
        deadline = time.monotonic() + ACT_TIMEOUT
        while True:
            try:
                return Qmp(self._qmp_path)
            except OSError as error:
                if time.monotonic() > deadline:
                    raise PeerError(f"{{qmp}}: {self._qmp_path}: {error.strerror}") from None
                time.sleep(0.02)  # a name in a directory; nothing tells of it

    def _act(self, act: str, session: Session, qmp: Qmp | None) -> str:
        """Do one thing to the front-end; why it was not done, or nothing."""
        if act == START:
            return self._start(session, qmp)
        if act == END:
            return self._end(session, qmp)
        if act == ASKED and session.script.asks is not None:
            session.script.asks(session)
            return ""
        if qmp is None:
            return NO_QMP
        qmp.do(act)
        if not session.pump(lambda: qmp.answered, ACT_TIMEOUT, qmp):
            if session.over:
                return f"the front-end closed the connection at {act}"
            return f"the front-end did not answer {act} within {ACT_TIMEOUT:g} s"
        if qmp.refusal:
            return f"the front-end refused to {act}: {qmp.refusal}"
        reached = {LOG: _logged, RESET: _restarted}.get(act, _answered)
        quiet = SETTLED if act == RESET else BRIEFLY
        session.pump(lambda: session.quiet(quiet) and reached(session), ACT_TIMEOUT, qmp)
        if act in (CONT, RESET) and self._program is not None and not session.over:
            session.recording.held.append(self._program.descriptors)
        return ""

    def _start(self, session: Session, qmp: Qmp | None) -> str:
        begin = time.monotonic()
        timeout = self._start_timeout(session.script)
        session.pump(lambda: self._said_all(session), timeout, qmp)
        if self._usual is None:
            took = time.monotonic() - begin
            count = len(session.recording.messages)
            self._usual = Usual(session.running, took, count, session.longest_pause)
        if session.running:
            return ""
        if session.over:
            return "the front-end closed the connection before it started a ring"
        waited = time.monotonic() - begin
        return f"no guest started a ring within {waited:.2g} s"

    def _start_timeout(self, script: Script) -> float:
        """Seconds for a ring to be started: many at first, and then as it has turned out."""
        if self._usual is None:
            return self._timeout * BOOT
        delays = script.delay * self._usual.messages
        return min(self._usual.seconds * SLOWER, self._timeout * BOOT) + SLOWER_BY + delays

    def _said_all(self, session: Session) -> bool:
        """Whether the front-end has said what it has to say at its start."""
        usual, count = self._usual, len(session.recording.messages)
        if session.running:
            as_usual = usual is not None and count >= usual.messages
            return session.quiet(BRIEFLY if as_usual else SETTLED)
        if session.recording.marks:
            # What it makes of it is over when it says nothing more.
            return session.quiet(self._timeout)
        if usual is None or usual.started:
            return False
        # Its guest starts no ring, whatever the back-end does.
        return session.quiet(max(SETTLED, 2 * usual.pause + session.script.delay))

    def _end(self, session: Session, qmp: Qmp | None) -> str:
        if self._program is None:
            return "the suite has not started the front-end, and does not end it: say --exec"
        self._program.ask_to_end()
        deadline = time.monotonic() + ACT_TIMEOUT
        session.pump(lambda: False, ACT_TIMEOUT, qmp)
        self._program.ends_within(max(0.0, deadline - time.monotonic()))
        session.recording.left = False
        return ""

    def _look_at_end(self, session: Session) -> Wire | None:
        """Whether the program has ended by itself, or connects anew: for a session of its own."""
        program, recording = self._program, session.recording
        told = END in recording.acts
        if program is not None and not told and session.over:
            program.ends_within(RETURN_TIMEOUT)
        if program is not None and not program.running:
            recording.crashed = program.crashed and not (told and program.terminated)
            recording.ended = program.exit_description
        elif session.over and not told:
            returns = session.script.returns
            caller = self._await_caller(ACT_TIMEOUT if returns else RETURN_TIMEOUT)
            recording.again = caller is not None
            if caller is not None and returns:
                return Wire(caller, NAMES, self._timeout)
            if caller is not None:
                caller.close()
        return None


def _answered(_session: Session) -> bool:
    """The command's answer is all there is to wait for."""
    return True


def _logged(session: Session) -> bool:
    """Logging was switched off again, or the rings were stopped as for a migration."""
    changes = session.recording.of(F.SET_FEATURES, F.GET_VRING_BASE, act=LOG)
    last = changes[-1] if changes else None
    if last is None or last.id == F.GET_VRING_BASE:
        return last is not None
    return not last.u64 >> VHOST_F_LOG_ALL & 1


def _restarted(session: Session) -> bool:
    return bool(session.recording.of(F.GET_VRING_BASE, act=RESET)) and session.running
