"""Runs the cases of a front-end: each case judges recordings of sessions with it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from vhost_user_conformance.errors import PeerError
from vhost_user_conformance.front_end.acts import START
from vhost_user_conformance.front_end.recording import F
from vhost_user_conformance.front_end.session_player import SessionPlayer
from vhost_user_conformance.front_end.tester import FrontEnd
from vhost_user_conformance.model.device_class import row_of
from vhost_user_conformance.model.result import CaseResult, Offered, evidence
from vhost_user_conformance.model.verdict import CaseEnd, Verdict
from vhost_user_conformance.peer.runner import CaseRunner

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from vhost_user_conformance.front_end.destination import Destination
    from vhost_user_conformance.front_end.recording import Recording
    from vhost_user_conformance.front_end.script import Script
    from vhost_user_conformance.model.case import Case
    from vhost_user_conformance.peer.program import PeerProgram


#: Protocol features without which some front-ends leave; the plain session does not offer them.
REQUIRED = ("CONFIGURE_MEM_SLOTS",)


class FrontEndRunner(CaseRunner):
    """One front-end under test. See `CaseRunner`.

    The suite listens on the socket, and the program is started for each session.

    Args:
        path, program, settings: see `CaseRunner`.
        qmp: path of the program's QMP socket, or None.
        destination: of migrations; None if there is none.

    Raises:
        PeerError: the suite cannot listen there.
    """

    LACKS = "the front-end does not acknowledge {}: it is not offered or not wanted"

    def __init__(
        self,
        path: Path,
        program: PeerProgram | None,
        *,
        qmp: Path | None,
        destination: Destination | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(path, program, **settings)
        row = row_of(self._device)
        self._player = SessionPlayer(
            path,
            program,
            qmp=qmp,
            row=row,
            timeout=self._timeout,
            destination=destination,
        )
        self._tester = FrontEnd(row, self._timeout, self._player.play)

    def close(self) -> None:
        """Close and remove the socket."""
        self._player.close()

    def probe(self) -> Offered:
        """Play the plain session: which features are acknowledged, and the number of rings.

        Raises:
            PeerError: no front-end connects, or it sends nothing that can be decoded.
        """
        recording = self._tester.plain()
        if recording.left and START in recording.undone and self._program is not None:
            recording = self._offer_more(recording)
        if not recording.messages:
            came = "; ".join(recording.transcript[:2]) or "it sends nothing"
            raise PeerError(f"what connects to {self._path} is not a vhost-user front-end: {came}")
        last = recording.messages[-1]
        if START in recording.undone and not recording.of(F.SET_OWNER, F.SET_FEATURES):
            raise PeerError(f"the front-end stops after {last}: {recording.undone[START]}")
        self.offered = Offered(last.features or 0, last.protocol, len(recording.rings()))
        return self.offered

    def _offer_more(self, first: Recording) -> Recording:
        """Play the plain session with `REQUIRED`, for a front-end that leaves without them.

        Returns:
            The recording. If it starts a ring, these features are offered in all other sessions.
        """
        row = self._player.row
        for feature in REQUIRED:
            more = row._replace(protocol_features=(*row.protocol_features, feature))
            self._player.row = more
            self._tester.offer(more)
            recording = self._tester.plain()
            if START not in recording.undone:
                return recording
        self._player.row = row
        self._tester.offer(row)
        self._tester.keep(first)
        return first

    def guard(self, cases: Iterable[Case]) -> None:
        """As `CaseRunner.guard`: the disk is the suite's own."""

    def record(self, script: Script) -> Recording:
        """Play a session for a caller that is not a case. Raises as `probe`."""
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
            self._gone = self._player.gone = self._gone or f"at {case.id}: {error}"
            verdict, expected, seen = Verdict.ERROR, "", f"there was no session: {error}"
        except Exception as error:  # noqa: BLE001  an error of the case, not of the peer
            verdict, expected, seen = Verdict.ERROR, "", f"{type(error).__name__}: {error}"
        else:
            verdict, expected, seen = Verdict.PASS, "", ""
        if verdict in (Verdict.FAIL, Verdict.ERROR):
            seen = evidence(seen, self._tester.shown[:line])
        return CaseResult(case, verdict, expected, seen, (time.monotonic() - begin) * 1e3)
