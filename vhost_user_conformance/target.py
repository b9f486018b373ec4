"""The peer to test, and how: the same for the command and for the pytest plugin.

`Target` is what a user specifies. `Target.opened` yields a runner for it, as a context manager.
"""

from __future__ import annotations

import os
import re
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from vhost_user.channel import MAX_SOCKET_PATH
from vhost_user.temporary_directory import RANDOM_LENGTH, TemporaryDirectory, parent_directory
from vhost_user_conformance.errors import OptionError
from vhost_user_conformance.model.case import BACK_END, FRONT_END
from vhost_user_conformance.model.catalogue import cases_in
from vhost_user_conformance.model.device_class import DEVICE_CLASSES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vhost_user_conformance.front_end.destination import Destination
    from vhost_user_conformance.model.case import Area, Case
    from vhost_user_conformance.peer.program import PeerProgram
    from vhost_user_conformance.peer.runner import CaseRunner

PREFIX = "emu-conform-"
#: Of the files in the directory of a run.
LONGEST_NAME = "peer.sock"
ROLES = (BACK_END, FRONT_END)
DEVICES = tuple(DEVICE_CLASSES)
DIALECTS = ("spec", "rust-vmm", "yc-libvhost")
#: Seconds for each answer, by default.
PATIENCE = 2.0
#: The limits of options.
SHORTEST_PATIENCE, LONGEST_PATIENCE = 0.1, 60.0
SHORTEST_TOTAL, LONGEST_TOTAL = 0.1, 1e6


class Target(NamedTuple):
    """The peer under test, as a user names it.

    Attributes:
        role: ``back-end`` or ``front-end``: what the peer is.
        socket: where it listens (a back-end), or where it will connect (a front-end).
        command: starts it; ``{socket}`` in it is the socket's path, ``{qmp}`` that of a front-end's
            monitor.
        device: class of the device, or "": then no case has it serve requests.
        dialect: the implementation whose numbers it uses, where implementations differ.
        patience: seconds for each answer.
        scratch: the contents of the disk that a back-end serves may be overwritten. Without it,
            cases that have a disk serve requests run only if the disk is all zeroes.
        destination: starts the destination of a front-end's migration; ``{incoming}`` in it is the
            path of the socket where it awaits the VM. None: no case migrates.
    """

    role: str = BACK_END
    socket: Path | None = None
    command: str | None = None
    device: str = ""
    dialect: str = DIALECTS[0]
    patience: float = PATIENCE
    scratch: bool = False
    destination: str | None = None

    def check(self) -> None:
        """Check what can be checked without a peer.

        Raises:
            OptionError: no peer is given, or the command is invalid.
        """
        if self.command is None and self.socket is None:
            raise OptionError("no peer is given: use --socket PATH or --exec COMMAND")
        size = 0 if self.socket is None else len(os.fsencode(self.socket))
        if size > MAX_SOCKET_PATH:
            raise OptionError(
                f"--socket: a socket's path has at most {MAX_SOCKET_PATH} bytes, not {size}"
            )
        self._program(Path())
        self._destination(Path())

    @contextmanager
    def opened(self) -> Iterator[CaseRunner]:
        """A runner; a program is started when it is first needed.

        Raises:
            OptionError: no peer is given, or the command is invalid.
            OSError: no temporary directory can be made.
            PeerError: the suite cannot listen on the socket.
        """
        self.check()
        with ExitStack() as owned:
            folder = owned.enter_context(_temporary_directory())
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
        program, destination = self._program(folder), self._destination(folder)
        settings = self._settings()
        runner = FrontEndRunner(
            self._path(folder), program, qmp=qmp, destination=destination, **settings
        )
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

    def _destination(self, folder: Path) -> Destination | None:
        from vhost_user_conformance.front_end.destination import Destination

        if self.destination is None:
            return None
        if self.role == BACK_END:
            raise OptionError("--destination is for front-ends")
        return Destination(self.destination, folder, self.patience)

    def _path(self, folder: Path) -> Path:
        return self.socket or folder / "peer.sock"

    def _settings(self) -> dict[str, Any]:
        from vhost_user.features import DIALECTS as NUMBERS

        return {
            "device": self.device,
            "dialect": NUMBERS[self.dialect],
            "timeout": self.patience,
            "scratch": self.scratch,
        }


def _temporary_directory() -> TemporaryDirectory:
    """A directory whose sockets' paths are not too long, also where ``TMPDIR`` is."""
    folder = parent_directory()
    path = folder / (PREFIX + "x" * RANDOM_LENGTH) / LONGEST_NAME
    short = len(os.fsencode(path)) <= MAX_SOCKET_PATH
    return TemporaryDirectory(PREFIX, folder if short else Path("/tmp"))  # noqa: S108  mkdtemp


def areas_of(role: str) -> tuple[Area, ...]:
    """The areas of the cases for this role, in the order in which they run."""
    if role == FRONT_END:
        from vhost_user_conformance.front_end.cases import AREAS as FRONT_END_AREAS

        return FRONT_END_AREAS
    from vhost_user_conformance.back_end.cases import AREAS as BACK_END_AREAS

    return BACK_END_AREAS


def cases_of(role: str) -> list[Case]:
    """All cases for this role, by id."""
    return cases_in(areas_of(role))


def select(cases: Sequence[Case], wanted: Sequence[str]) -> list[Case]:
    """The cases that ``--only`` selects, by id or by area; all without it.

    Raises:
        OptionError: a word is neither an id nor an area.
    """
    for word in wanted:
        if not any(word in (case.id, case.area) for case in cases):
            areas = ", ".join(dict.fromkeys(case.area for case in cases))
            raise OptionError(f"--only {word}: no such case; the areas are {areas}")
    return [case for case in cases if not wanted or {case.id, case.area} & set(wanted)]


def shard(cases: Sequence[Case], number: int, count: int) -> list[Case]:
    """One part of the cases: each case is in one part, and always in the same one.

    The numbers of cases in the parts differ by one at most, in each area and in total.

    Args:
        cases: to be divided.
        number: of the part, from 1 to ``count``.
        count: the number of parts.
    """
    areas: dict[str, list[int]] = {}
    for place, case in enumerate(cases):
        areas.setdefault(case.area, []).append(place)
    dealt = [place for members in areas.values() for place in members]
    return [cases[place] for place in sorted(dealt[number - 1 :: count])]


def shard_of(text: str) -> tuple[int, int]:
    """The number of a part and the number of parts in a text such as ``2/3``.

    Raises:
        OptionError: it is something else.
    """
    found = re.fullmatch(r"([0-9]{1,4})/([0-9]{1,4})", text)
    number, count = map(int, found.groups()) if found else (0, 0)
    if not 1 <= number <= count:
        raise OptionError(
            f"{text!r}: write K/N, such as 2/3, with K from 1 to N, and N at most 9999"
        )
    return number, count
