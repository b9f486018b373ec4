"""Runs the suite against an endpoint with a mistake in it, until a case finds the mistake."""

from __future__ import annotations

import shlex
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

from tests.mutants.catalogue import ROOT, UNMUTATED, Mutant
from vhost_user_conformance.errors import PeerError
from vhost_user_conformance.model.verdict import Verdict
from vhost_user_conformance.target import Target, cases_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from vhost_user_conformance.model.case import Case
    from vhost_user_conformance.model.result import CaseResult
    from vhost_user_conformance.peer.runner import CaseRunner

DISK_BYTES = 16 << 20
#: Reported in place of a case where the program does not answer at all.
NO_PEER = "no peer"

#: In place of `emu.cli`: a front-end with features that ours does not have.
OPTIONAL = "tests.vhost_user_conformance.front_end.optional_vm"
_DESTINATION = "tests.vhost_user_conformance.front_end.incoming_vm"
_PROGRAMS = {
    ("back-end", "blk"): "backends.blk --socket-path {socket} --num-queues 4 --blk-file {disk}",
    ("back-end", "net"): "backends.net --socket-path {socket} --num-queues 4",
    ("back-end", "rng"): "backends.rng --socket-path {socket}",
    ("front-end", "blk"): "emu.cli attach --blk {socket} --rings 2 --scratch --qmp {qmp} -q",
    ("front-end", "net"): "emu.cli attach --net {socket} --rings 2 --qmp {qmp} -q",
    ("front-end", "rng"): "emu.cli attach --rng {socket} --rings 1 --qmp {qmp} -q",
}
#: The destination of a front-end's migration.
_DESTINATIONS = {
    device: f"{_DESTINATION} {device} {{socket}} {rings} {{incoming}}"
    for device, rings in (("blk", 2), ("net", 2), ("rng", 1))
}


class Subject(NamedTuple):
    """The subject of a trial: a mutant, or an unmodified endpoint (``mutant`` is None).

    Attributes:
        role, device, mutant: of the endpoint.
        optional: see `Mutant`.
    """

    role: str
    device: str
    mutant: Mutant | None = None
    optional: bool = False

    @classmethod
    def of(cls, mutant: Mutant) -> Self:
        """The subject of this mutant's trial."""
        return cls(mutant.role, mutant.device, mutant, mutant.optional)

    @property
    def name(self) -> str:
        """Its name in tables."""
        if self.mutant is not None:
            return self.mutant.name
        program = "optional-" if self.optional else ""
        return f"{UNMUTATED}-{program}{self.role}-{self.device}"

    @property
    def _launcher(self) -> str:
        words = ("env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "tests.mutants.launch")
        return shlex.join([*words, UNMUTATED if self.mutant is None else self.mutant.name])

    @property
    def destination(self) -> str | None:
        """The command, as for `emu conform --destination`; None of a back-end."""
        if self.role == "back-end" or self.optional:
            return None
        return f"{self._launcher} {_DESTINATIONS[self.device]}"

    @property
    def command(self) -> str:
        """The command, as for `emu conform --exec`, with a further placeholder ``{disk}``."""
        options = "" if self.mutant is None else self.mutant.options
        program = _PROGRAMS[self.role, self.device]
        if self.optional:
            program = program.replace("emu.cli", OPTIONAL)
        return f"{self._launcher} {program} {options}".rstrip()


class Finding(NamedTuple):
    """A case that did not pass: its id and evidence."""

    case: str
    seen: str


class Trial(NamedTuple):
    """The result of a trial.

    Attributes:
        subject: of the trial.
        findings: of the cases that failed; for a mutant only the first ones.
        cases: number of cases that were run.
        seconds: duration.
    """

    subject: Subject
    findings: tuple[Finding, ...]
    cases: int
    seconds: float

    @property
    def as_it_should_be(self) -> bool:
        """Whether a mutant was caught, or an unmodified endpoint passed."""
        return bool(self.findings) is (self.subject.mutant is not None)

    @property
    def by_surprise(self) -> bool:
        """Whether it was caught, but by none of the cases in the catalogue entry."""
        mutant = self.subject.mutant
        found = {finding.case for finding in self.findings}
        return mutant is not None and bool(found) and not found & set(mutant.caught_by)


def attempt(
    subject: Subject,
    *,
    thorough: bool = True,
    every: bool = False,
    only: frozenset[str] | None = None,
) -> Trial:
    """Run the cases that are known to catch the mutant, then the others until one does.

    All cases are run on an unmodified endpoint.

    Args:
        subject: of the trial.
        thorough: run the other cases if those of the entry find nothing.
        every: run all cases, also after a failure.
        only: run these cases only.
    """
    begin = time.monotonic()
    results: list[CaseResult] = []
    lost: list[Finding] = []
    wanted = {Verdict.FAIL} if subject.mutant else {Verdict.FAIL, Verdict.ERROR}

    def found() -> list[Finding]:
        return [_finding(result) for result in results if result.verdict in wanted]

    try:
        with _opened(subject) as runner:
            runner.probe()
            named, others = _cases(subject, only)
            runner.run(named, results.append)
            if every or subject.mutant is None:
                runner.run(others, results.append)
            elif thorough and not found():
                runner.run(_until(others, found), results.append)
    except PeerError as error:
        lost.append(Finding(NO_PEER, str(error)))
    findings = (*found(), *lost)
    return Trial(subject, findings, len(results), time.monotonic() - begin)


def judge(subject: Subject, *, every: bool = False) -> Trial:
    """`attempt`, repeated once for a mutant that survives, as a busy machine may hide it."""
    trial = attempt(subject, every=every)
    if subject.mutant is not None and not trial.findings:
        trial = attempt(subject, every=every)
    return trial


def _cases(subject: Subject, only: frozenset[str] | None) -> tuple[list[Case], list[Case]]:
    """The cases of the mutant's entry, and the others."""
    ids = subject.mutant.caught_by if subject.mutant else ()
    cases = [case for case in cases_of(subject.role) if only is None or case.id in only]
    named = [case for case in cases if case.id in ids]
    return named, [case for case in cases if case.id not in ids]


def _until(cases: Iterable[Case], over: Callable[[], object]) -> Iterator[Case]:
    for case in cases:
        yield case
        if over():
            return


def _finding(result: CaseResult) -> Finding:
    seen = result.seen.splitlines()[0] if result.seen else ""
    expected = f"expected {result.expected}; " if result.expected else ""
    return Finding(result.case.id, f"{expected}{seen}")


@contextmanager
def _opened(subject: Subject) -> Iterator[CaseRunner]:
    """The target, with a disk for endpoints that need one."""
    with tempfile.TemporaryDirectory(prefix="emu-mutant-") as folder:
        disk = Path(folder) / "disk.img"
        with disk.open("wb") as file:
            file.truncate(DISK_BYTES)
        command = subject.command.replace("{disk}", shlex.quote(str(disk)))
        target = Target(
            subject.role,
            None,
            command,
            subject.device,
            scratch=True,
            destination=subject.destination,
        )
        with target.opened() as runner:
            yield runner
