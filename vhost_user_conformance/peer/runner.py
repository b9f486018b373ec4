"""Runs cases against one peer, of either role."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from vhost_user_conformance.model.result import CaseResult, Offered
from vhost_user_conformance.trace_events import CASE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from vhost_user.features import Dialect
    from vhost_user_conformance.model.case import Case
    from vhost_user_conformance.peer.program import PeerProgram


class CaseRunner(ABC):
    """One peer under test.

    Args:
        path: the socket.
        program: what to start; None if it runs already.
        device: class of device, or "".
        dialect: which numbers the peer uses.
        timeout: seconds for each answer.
        scratch: the contents of the disk that the peer serves may be overwritten.

    Attributes:
        offered: what the peer offers or acknowledges, once `probe` has read it.
    """

    #: The reason why a case does not apply to a peer without a protocol feature.
    LACKS = "{} is not offered"

    def __init__(
        self,
        path: Path,
        program: PeerProgram | None,
        *,
        device: str,
        dialect: Dialect,
        timeout: float,
        scratch: bool = False,
    ) -> None:
        self._path = path
        self._program = program
        self._device = device
        self._dialect = dialect
        self._timeout = timeout
        self._scratch = scratch
        self._gone = ""
        self.offered = Offered(0, 0, 0)

    @property
    def gone(self) -> str:
        """Why the peer could not be reached for some cases, or nothing."""
        return self._gone

    @abstractmethod
    def probe(self) -> Offered:
        """Read what the peer offers.

        Raises:
            PeerError: it cannot be reached, or does not answer.
        """

    def describe(self) -> dict[str, Any]:
        """The peer, for ``--json``."""
        return {
            "socket": str(self._path),
            "command": None if self._program is None else self._program.command,
            "device": self._device or None,
            "dialect": self._dialect.name,
        }

    @abstractmethod
    def guard(self, cases: Iterable[Case]) -> None:
        """Return if these cases overwrite nothing that the user may want to keep.

        `run` asks before each case; a caller that asks before the first one loses no verdict.

        Raises:
            PeerError: they may overwrite data; the text has advice.
        """

    def run(self, cases: Iterable[Case], report: Callable[[CaseResult], None]) -> list[CaseResult]:
        """Run them all, and report each result.

        Once the peer cannot be reached the cases end as ERROR, and `gone` is the reason.
        """
        results = []
        for case in cases:
            start = time.monotonic_ns()
            result = self._run(case)
            if CASE.enabled:
                us = (time.monotonic_ns() - start) / 1000
                about = {"case": case.id, "area": case.area, "verdict": str(result.verdict)}
                CASE.emit(**about, start_ns=start, us=us)
            results.append(result)
            report(result)
        return results

    @abstractmethod
    def _run(self, case: Case) -> CaseResult:
        """Run one case."""

    def _missing(self, case: Case) -> str:
        """Why the case does not apply to this peer, or nothing."""
        for name in case.needs:
            mask = self._dialect.protocol_feature(name)
            if mask is None or not int(mask) & self.offered.protocol_features:
                return self.LACKS.format(name)
        if case.device and case.device != self._device:
            return f"is about {case.device}: use --device {case.device}"
        return ""
