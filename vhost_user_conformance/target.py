"""What is to be tested, and how: the same for the command and for pytest's plugin.

`Target` is what a user says. `Target.opened` makes a runner of it, for as long as it is needed.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from vhost_user_conformance.errors import OptionError
from vhost_user_conformance.model.case import BACK_END, FRONT_END

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vhost_user_conformance.model.case import Case
    from vhost_user_conformance.peer.program import PeerProgram
    from vhost_user_conformance.peer.runner import CaseRunner

ROLES = (BACK_END, FRONT_END)
DEVICES = ("blk", "net", "fs")
DIALECTS = ("spec", "rust-vmm", "yc-libvhost")
#: Seconds for each answer, unless told.
PATIENCE = 2.0
#: And what may be told.
SHORTEST_PATIENCE, LONGEST_PATIENCE = 0.1, 60.0


class Target(NamedTuple):
    """The peer under test, as a user names it.

    Attributes:
        role: ``back-end`` or ``front-end``: what the peer is.
        socket: where it listens (a back-end), or where it will connect (a front-end).
        command: starts it; ``{socket}`` in it is the socket's path, ``{qmp}`` that of a front-end's
            monitor.
        device: its class, or "": then no case has it serve requests.
        dialect: whose numbers it uses, where they are still moving.
        patience: seconds for each answer.
        scratch: the contents of the disk that a back-end serves may be overwritten. Without it,
            cases that have a disk serve requests run only if the disk is all zeroes.
    """

    role: str = BACK_END
    socket: Path | None = None
    command: str | None = None
    device: str = ""
    dialect: str = DIALECTS[0]
    patience: float = PATIENCE
    scratch: bool = False

    def check(self) -> None:
        """Find what can be found without a peer.

        Raises:
            OptionError: there is nobody to test, or the command cannot be what is meant.
        """
        if self.command is None and self.socket is None:
            raise OptionError("say what is to be tested: --socket PATH or --exec COMMAND")
        self._program(Path())

    @contextmanager
    def opened(self) -> Iterator[CaseRunner]:
        """A runner; the program, if there is one, is started when it is first needed.

        Raises:
            OptionError: there is nobody to test, or the command cannot be what is meant.
            PeerError: there can be no socket there.
        """
        self.check()
        with ExitStack() as owned:
            folder = Path(owned.enter_context(tempfile.TemporaryDirectory(prefix="emu-conform-")))
            make = self._back_end if self.role == BACK_END else self._front_end
            yield make(folder, owned)

    def _back_end(self, folder: Path, owned: ExitStack) -> CaseRunner:
        from vhost_user_conformance.back_end.runner import BackEndRunner

        program = self._program(folder)
        if program is not None:
            owned.callback(program.stop)
        return BackEndRunner(self._path(folder), program, **self._settings())

    def _front_end(self, folder: Path, owned: ExitStack) -> CaseRunner:
        from vhost_user_conformance.front_end.runner import FrontEndRunner

        qmp = folder / "qmp.sock" if "{qmp}" in (self.command or "") else None
        program = self._program(folder)
        runner = FrontEndRunner(self._path(folder), program, qmp=qmp, **self._settings())
        owned.callback(runner.close)
        return runner

    def _program(self, folder: Path) -> PeerProgram | None:
        from vhost_user_conformance.peer.program import PeerProgram

        if self.command is None:
            return None
        path, log = self._path(folder), folder / "peer.log"
        if self.role == BACK_END:
            return PeerProgram(self.command, path, log)
        qmp = folder / "qmp.sock" if "{qmp}" in self.command else None
        return PeerProgram(self.command, path, log, qmp=qmp, listens=False)

    def _path(self, folder: Path) -> Path:
        return self.socket or folder / "peer.sock"

    def _settings(self) -> dict[str, Any]:
        from vhost_user.features import DIALECTS as NUMBERS

        return {
            "device": self.device,
            "dialect": NUMBERS[self.dialect],
            "patience": self.patience,
            "scratch": self.scratch,
        }


def cases_of(role: str) -> list[Case]:
    """All cases for this role, by id."""
    if role == FRONT_END:
        from vhost_user_conformance.front_end.cases import cases as front_end_cases

        return front_end_cases()
    from vhost_user_conformance.back_end.cases import cases as back_end_cases

    return back_end_cases()


def select(cases: Sequence[Case], wanted: Sequence[str]) -> list[Case]:
    """The cases that ``--only`` names: by id or by area; all if it is not given.

    Raises:
        OptionError: one of its words names none.
    """
    for word in wanted:
        if not any(word in (case.id, case.area) for case in cases):
            areas = ", ".join(dict.fromkeys(case.area for case in cases))
            raise OptionError(f"--only {word}: no such case; the areas are {areas}")
    return [case for case in cases if not wanted or {case.id, case.area} & set(wanted)]
