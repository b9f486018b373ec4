"""Runs the cases of a back-end: each on a connection of its own, none against a dead peer."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

from emu.conformance.back_end.tester import BackEnd, F
from emu.conformance.peer import START_PATIENCE, PeerError, PeerProgram, connect
from emu.conformance.result import CaseResult, Offered
from emu.conformance.verdict import CaseEnd, Verdict
from emu.conformance.wire import Closed, Wire, WireError
from emu.conformance.work import WORKS
from vhost_user.message_ids import FrontendRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from emu.conformance.case import Case
    from vhost_user.features import Dialect

NAMES = {member.value: member.name for member in FrontendRequest}
#: Lines of the transcript that a verdict shows.
SHOWN = 12
#: Seconds that a back-end may take to notice that its front-end has gone, and to end if it does.
SETTLE = 0.5
#: How often a program is started before it is given up.
TRIES = 2


class BackEndRunner:
    """One back-end under test.

    Args:
        path: its socket.
        program: what to start, again where need be; None if it listens already.
        device: its class, or "".
        dialect: which numbers it uses.
        patience: seconds for each answer.
    """

    def __init__(
        self,
        path: Path,
        program: PeerProgram | None,
        *,
        device: str,
        dialect: Dialect,
        patience: float,
    ) -> None:
        self._path = path
        self._program = program
        self._device = device
        self._dialect = dialect
        self._patience = patience
        self.offered = Offered(0, 0, 0)
        # It has been seen to end when its front-end leaves.
        self._ends = False

    def probe(self) -> Offered:
        """Ask once what it offers.

        Raises:
            PeerError: it cannot be talked to at all.
        """
        with self._connected() as be:
            try:
                be.agree(set_features=False)
            except (CaseEnd, WireError) as error:
                raise PeerError(f"{self._path} is no vhost-user back-end: {error}") from None
            self.offered = Offered(be.features, int(be.protocol), be.rings)
        return self.offered

    def describe(self) -> dict[str, Any]:
        """What was tested, for ``--json``."""
        return {
            "socket": str(self._path),
            "command": None if self._program is None else self._program.command,
            "device": self._device or None,
            "dialect": self._dialect.name,
        }

    def run(self, cases: Iterable[Case], told: Callable[[CaseResult], None]) -> list[CaseResult]:
        """Run them all, telling of each.

        Raises:
            PeerError: there is no peer any more, and none can be started.
        """
        results = []
        for case in cases:
            result = self._run(case)
            results.append(result)
            told(result)
        return results

    def _run(self, case: Case) -> CaseResult:
        missing = self._missing(case)
        if missing:
            return CaseResult(case, Verdict.UNSUPPORTED, "", missing, 0.0)
        begin = time.monotonic()
        with self._connected() as be:
            verdict, expected, seen = self._judge(case, be)
            if verdict in (Verdict.FAIL, Verdict.ERROR):
                seen = "\n".join([seen, *be.wire.transcript[-SHOWN:]])
        crash = self._crash()
        if crash:
            verdict, expected, seen = Verdict.FAIL, "the back-end to live", f"{crash}\n{seen}"
        return CaseResult(case, verdict, expected, seen, (time.monotonic() - begin) * 1e3)

    def _missing(self, case: Case) -> str:
        """Why the case is not about this peer, or nothing."""
        for name in case.needs:
            mask = self._dialect.protocol_feature(name)
            if mask is None or not int(mask) & self.offered.protocol_features:
                return f"{name} is not offered"
        if case.device and case.device != self._device:
            return f"is about {case.device}: say --device {case.device}"
        if case.works and self._device not in WORKS:
            return "needs to know the device: say --device"
        return ""

    @staticmethod
    def _judge(case: Case, be: BackEnd) -> tuple[Verdict, str, str]:
        try:
            case.run(be)
        except CaseEnd as end:
            return end.verdict, end.expected, end.seen
        except Closed as closed:
            return Verdict.FAIL, "the connection to stay open", str(closed)
        except WireError as error:
            return Verdict.FAIL, f"an answer within {be.patience:g} s", str(error)
        except Exception as error:  # noqa: BLE001  whatever it is, it says nothing of the peer
            return Verdict.ERROR, "", f"{type(error).__name__}: {error}"
        return Verdict.PASS, "", ""

    @contextlib.contextmanager
    def _connected(self) -> Iterator[BackEnd]:
        wire = self._connect()
        be = BackEnd(wire, self._device, self._dialect)
        # With the program at hand some cases look at what it holds.
        be.program = self._program
        be.dial = self._dial
        try:
            yield be
        finally:
            be.close()

    def _connect(self) -> Wire:
        """A connection that answers; a program that does not is started anew."""
        for _ in range(TRIES):
            wire = None
            try:
                wire = self._try_connect()
                wire.send(F.GET_FEATURES)
                wire.receive().close()
            except (WireError, PeerError) as error:
                why = str(error)
                if wire is not None:
                    wire.close()
                if self._program is None:
                    break
                # It may end with its front-end, as virtiofsd does, or be of no use any more.
                self._program.stop()
            else:
                wire.transcript.clear()
                return wire
        raise PeerError(f"{self._path} does not answer: {why}")

    def _try_connect(self) -> Wire:
        program = self._program
        if program is not None and not program.running:
            program.stop()
            program.start()
        sock = connect(
            self._path,
            patience=START_PATIENCE,
            gone=lambda: self._why_not() if program is not None and not program.running else "",
        )
        return Wire(sock, NAMES, self._patience)

    def _dial(self) -> Wire:
        """One more connection to what runs; a program that has ended stays so."""
        program = self._program
        sock = connect(
            self._path,
            patience=self._patience,
            gone=lambda: self._why_not() if program is not None and not program.running else "",
        )
        return Wire(sock, NAMES, self._patience)

    def _why_not(self) -> str:
        program = self._program
        assert program is not None  # noqa: S101  only asked of one
        return f"--exec: the program ended {program.how_it_ended}: {program.last_line}"

    def _crash(self) -> str:
        """How the program was ended by a signal, or nothing; it is replaced if it ended."""
        program = self._program
        if program is None:
            return ""
        if self._ends:
            program.end_soon(SETTLE)
        if program.running:
            return ""
        self._ends = not program.crashed
        return f"it ended {program.how_it_ended}: {program.last_line}" if program.crashed else ""
