"""Runs the cases of a back-end, each on a connection of its own, and checks the peer after each."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

from vhost_user.errors import BackendError
from vhost_user.messages import FrontendRequest
from vhost_user_conformance.back_end.connection import PROTOCOL_BIT, BackEnd, F
from vhost_user_conformance.back_end.disk_contents import DiskContentsError, check_zeroes
from vhost_user_conformance.back_end.requests import first_answer
from vhost_user_conformance.errors import PeerError
from vhost_user_conformance.model.device_class import row_of
from vhost_user_conformance.model.result import CaseResult, Offered, evidence
from vhost_user_conformance.model.verdict import CaseEnd, Verdict
from vhost_user_conformance.peer.patience import Patience
from vhost_user_conformance.peer.program import CONNECT_FACTOR, connect
from vhost_user_conformance.peer.runner import CaseRunner
from vhost_user_conformance.peer.wire import Closed, Nonsense, Wire, WireError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from vhost_user_conformance.model.case import Case
    from vhost_user_conformance.peer.program import PeerProgram

NAMES = {member.value: member.name for member in FrontendRequest}
#: Seconds for a back-end to detect that its front-end has disconnected, and to end if it does so.
SETTLE = 0.5
#: Seconds for a program to listen, at the least, however short the time limit for an answer is.
START_TIMEOUT = 15.0
#: Number of attempts to start a program.
TRIES = 2
#: Of a number.
ANSWER_BYTES = 8


class BackEndRunner(CaseRunner):
    """One back-end under test. See `CaseRunner`; a program is started again when it has ended."""

    def __init__(self, path: Path, program: PeerProgram | None, **settings: Any) -> None:
        super().__init__(path, program, **settings)
        self._patience = Patience(self._timeout)
        # Whether it was seen to end with its front-end, and to accept another one.
        self._ends = self._serves_on = False
        # It runs on after its first front-end, and answers no other one.
        self._single = False
        # Whether it answers several front-ends at the same time, once that was tried.
        self._several: bool | None = None
        # The connections of the current case.
        self._wires: list[Wire] = []
        # A connection for the next case, on which the back-end has answered.
        self._ready: Wire | None = None
        # The disk has been read, and is all zeroes.
        self._zeroes = False

    def probe(self) -> Offered:
        """Read once what it offers.

        Raises:
            PeerError: it cannot be reached, or does not answer.
        """
        with contextlib.closing(self._begin()) as be:
            try:
                features = _number_of(be, F.GET_FEATURES)
                has_more = features & PROTOCOL_BIT
                protocol = _number_of(be, F.GET_PROTOCOL_FEATURES) if has_more else 0
            except WireError as error:
                raise PeerError(f"{self._path} is not a vhost-user back-end: {error}") from None
            # Other faults are for the cases to find.
            with contextlib.suppress(CaseEnd, WireError):
                be.negotiate(set_features=False)
            self.offered = Offered(features, protocol, be.rings)
        try:
            self._ready = self._answered(self._open_wire)
            self._serves_on = True
        except (WireError, PeerError):
            if not self._has_ended(SETTLE):
                self._single = True
                if self._program is not None:
                    self._program.stop()
        return self.offered

    def run(self, cases: Iterable[Case], report: Callable[[CaseResult], None]) -> list[CaseResult]:
        """As `CaseRunner.run`.

        A case after which the back-end has crashed or does not answer has failed; the run ends if
        it cannot be started again.

        Raises:
            DiskContentsError: at the first case that may write, see `guard`.
        """
        try:
            return super().run(cases, report)
        finally:
            if self._ready is not None:
                self._ready.close()
                self._ready = None

    def guard(self, cases: Iterable[Case]) -> None:
        """As `CaseRunner.guard`.

        Any case that has a disk serve requests may write, also to where it does not intend to.

        Raises:
            DiskContentsError: they need a disk, which is not all zeroes, without ``scratch``.
            PeerError: no back-end answers.
        """
        if self._scratch or self._zeroes or not row_of(self._device).disk:
            return
        if any(case.works and not self._missing(case) for case in cases):
            with contextlib.closing(self._begin()) as be:
                check_zeroes(be)
            self._zeroes = True

    def _run(self, case: Case) -> CaseResult:
        missing = self._missing(case)
        if missing:
            return CaseResult(case, Verdict.UNSUPPORTED, "", missing, 0.0)
        begin = time.monotonic()
        try:
            self.guard((case,))
            be = self._begin()
        except DiskContentsError:
            raise
        except PeerError as error:
            self._gone = self._gone or f"at {case.id}: {error}"
            return CaseResult(
                case, Verdict.ERROR, "", f"the peer cannot be reached: {self._gone}", 0.0
            )
        try:
            verdict, expected, seen = self._judge(case, be)
            transcript = list(be.wire.transcript)
        finally:
            left_over = self._clean_up(be)
        if left_over:
            # The cause is not the peer, so a failure that the case found stands.
            if verdict is not Verdict.FAIL:
                verdict, expected = Verdict.ERROR, ""
            seen = f"{seen}\n{left_over}".lstrip()
        if verdict in (Verdict.FAIL, Verdict.ERROR):
            seen = evidence(seen, transcript)
        trouble = self._look_after(case)
        if trouble:
            verdict, expected, seen = Verdict.FAIL, "the back-end to survive", f"{trouble}\n{seen}"
        return CaseResult(case, verdict, expected, seen, (time.monotonic() - begin) * 1e3)

    def _missing(self, case: Case) -> str:
        missing = super()._missing(case)
        if not missing and case.works and not row_of(self._device).work:
            return "needs to know the device: use --device"
        return missing

    @staticmethod
    def _judge(case: Case, be: BackEnd) -> tuple[Verdict, str, str]:
        try:
            case.run(be)
        except CaseEnd as end:
            return end.verdict, end.expected, end.seen
        except Closed as closed:
            return Verdict.FAIL, "the connection to stay open", str(closed)
        except BackendError as error:
            return Verdict.FAIL, "a used ring of available chains", str(error)
        except WireError as error:
            return Verdict.FAIL, f"an answer within {be.timeout:.3g} s", str(error)
        except Exception as error:  # noqa: BLE001  an error of the suite, not of the peer
            return Verdict.ERROR, "", f"{type(error).__name__}: {error}"
        return Verdict.PASS, "", ""

    @staticmethod
    def _clean_up(be: BackEnd) -> str:
        """Release what a case made; what failed in that, or nothing."""
        try:
            be.close()
        except Exception as error:  # noqa: BLE001  the other cases have to be run
            return f"its clean-up: {type(error).__name__}: {error}"
        return ""

    def _begin(self) -> BackEnd:
        """The back-end, on a connection that answers. Raises `PeerError`."""
        be = BackEnd(self._connect(), self._device, self._dialect)
        # Some cases count the resources of the program.
        be.program = self._program
        be.open_wire = self._open_wire
        be.serves_one = self._single
        return be

    def _connect(self) -> Wire:
        """A connection that is answered; a program that does not answer is started anew.

        Once that has failed no other case tries it again.

        Raises:
            PeerError: no connection is answered.
        """
        self._wires.clear()
        wire, self._ready = self._ready, None
        if wire is not None:
            self._wires.append(wire)
            return wire
        if self._gone:
            raise PeerError(self._gone)
        for _ in range(TRIES if self._program is not None else 1):
            try:
                return self._answered(self._started)
            except PeerError as error:
                why = str(error)
            except WireError as error:
                why = f"{self._path} does not answer: {error}"
            if self._program is not None:
                if self._program.ends_within(0.0):
                    why += f"; {self._why_not()}" if self._why_not() not in why else ""
                # It may end with its front-end, as virtiofsd does, or listen or answer no more.
                self._program.stop()
        raise PeerError(why)

    def _answered(self, open_wire: Callable[[], Wire]) -> Wire:
        """A connection, and an answer on it.

        Raises:
            PeerError, WireError: it is not answered.
        """
        wire = first_answer(open_wire, lambda: bool(self._why_not()), self._timeout)
        wire.transcript.clear()
        return wire

    def _started(self) -> Wire:
        """A connection to the program, which is started where it does not run."""
        program = self._program
        if program is None or program.running:
            return self._open_wire()  # it listens already, or never
        program.stop()
        program.start()
        return self._open_wire(max(START_TIMEOUT, CONNECT_FACTOR * self._timeout))

    def _open_wire(self, timeout: float | None = None) -> Wire:
        """One more connection to the running program; it is not started again."""
        sock = connect(
            self._path,
            timeout=self._timeout if timeout is None else timeout,
            gone=self._why_not,
        )
        wire = Wire(sock, NAMES, self._patience)
        self._wires.append(wire)
        return wire

    def _why_not(self) -> str:
        """Why the program does not listen, or nothing."""
        program = self._program
        if program is None or program.running:
            return ""
        return f"--exec: the program ended {program.exit_description}"

    def _look_after(self, case: Case) -> str:
        """How the back-end crashed or hangs after a case, or nothing.

        The connection that is made for this check is used by the next case.
        """
        wires = list(self._wires)
        if self._has_ended(SETTLE if self._ends else 0.0):
            return self._crash(wires)
        if self._single and self._program is not None:
            self._program.stop()
            return ""
        for _ in range(TRIES):
            try:
                # A program that has just ended is not started again here: a new one would serve.
                self._ready = self._answered(self._open_wire)
            except (WireError, PeerError) as error:
                why = str(error)
            else:
                self._serves_on = True
                return ""
            if self._has_ended(SETTLE):
                return self._crash(wires)
        if self._program is None:
            self._gone = f"after {case.id}: {why}"
        else:
            self._program.stop()
        return f"it does not answer front-ends any more: {why}"

    def _has_ended(self, timeout: float) -> bool:
        return self._program is not None and self._program.ends_within(timeout)

    def _crash(self, wires: Sequence[Wire]) -> str:
        """How the program ended where it should not have, or nothing.

        Args:
            wires: the connections of the case.

        Some programs end with their front-end, with any status. A back-end may also close the
        connection on an error, and a program that serves one front-end may end then: no other one
        loses anything. One that has served several in turn ends with an error status by mistake
        if its front-end did nothing but disconnect, or if it serves others at the same time.
        """
        program = self._program
        assert program is not None  # noqa: S101  only asked of one
        if program.asked_to_end:
            return ""
        self._ends = not program.crashed and not self._serves_on
        how = f"it ended {program.exit_description}"
        if program.crashed:
            return how
        if not program.failed or not self._serves_on:
            return ""
        if all(wire.answered and not wire.abandoned for wire in wires):
            return f"{how}, after a front-end that had disconnected"
        if self._serves_several():
            return f"{how}, and it serves several front-ends at the same time"
        return ""

    def _serves_several(self) -> bool:
        """Whether the program, started anew, answers two front-ends at the same time."""
        if self._several is None:
            assert self._program is not None  # noqa: S101  only asked of one
            self._several = False
            with contextlib.ExitStack() as owned, contextlib.suppress(WireError, PeerError):
                owned.callback(self._program.stop)
                one = self._answered(self._started)
                owned.callback(one.close)
                other = self._answered(self._open_wire)
                owned.callback(other.close)
                one.send(F.GET_FEATURES)
                one.receive().close()
                self._several = True
        return self._several


def _number_of(be: BackEnd, number: int) -> int:
    """The answer to a request, without further checks.

    Raises:
        WireError: the message is not an answer to it.
    """
    be.send(number)
    answer = be.wire.receive()
    answer.close()
    if answer.id != number or len(answer.payload) != ANSWER_BYTES:
        what = f"id {answer.id}, flags {answer.flags:#x}, {len(answer.payload)} bytes"
        raise Nonsense(f"{F(number).name} was answered with {what}")
    return answer.u64
