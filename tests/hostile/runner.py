"""Runs cells on their programs: many on one running program, which a failed cell restarts."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tests.hostile.cell import Cell, NotOk, Verdict
from tests.hostile.programs import Program, start

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

#: Cells on one program, after which it is ended with SIGTERM.
BATCH = 60
#: How often a cell may be tried when a neighbour has waited too long: the machine may be busy.
TRIES = 3


class Runner:
    """Runs cells in order.

    Args:
        neighbour_limit: see `BackEndProgram`.
        report: is called with each verdict.
    """

    def __init__(
        self, neighbour_limit: float | None, report: Callable[[Verdict], None] = lambda _: None
    ) -> None:
        self._limit = neighbour_limit
        self._report = report
        self._program: Program | None = None
        self._name = ""
        self._tried = 0
        self._folder = Path(tempfile.mkdtemp(prefix="hostile-"))
        self._verdicts: list[Verdict] = []

    def run(self, cells: Iterable[Cell]) -> list[Verdict]:
        """Try all of them; the verdicts, and one more for each end of a program."""
        for cell in cells:
            if self._program is not None and (cell.program != self._name or self._tried >= BATCH):
                self._end_program()
            self._record(self._try(cell))
        self._end_program()
        return self._verdicts

    def close(self) -> None:
        """Remove all files."""
        self._drop_program()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _try(self, cell: Cell) -> Verdict:
        for again in reversed(range(TRIES)):
            verdict = self._try_once(cell)
            if verdict.complaint or cell.sigterm:
                self._drop_program()
            if "neighbour took" not in verdict.complaint or not again:
                break
        return verdict

    def _try_once(self, cell: Cell) -> Verdict:
        if self._program is None:
            folder = Path(tempfile.mkdtemp(dir=self._folder))
            try:
                self._program = start(cell.program, folder, self._limit)
            except NotOk as reason:
                return Verdict(cell, str(reason), 0.0, 0.0)
            self._name, self._tried = cell.program, 0
        self._tried += 1
        return self._program.run(cell)

    def _record(self, verdict: Verdict) -> None:
        self._verdicts.append(verdict)
        self._report(verdict)

    def _end_program(self) -> None:
        program, self._program = self._program, None
        if program is not None:
            end = Cell("SIGTERM", self._name, f"after {self._tried} cells", self._name, _nothing)
            self._record(Verdict(end, program.end(), 0.0, 0.0))

    def _drop_program(self) -> None:
        program, self._program = self._program, None
        if program is not None:
            program.discard()


def _nothing(_program: object) -> None:
    """The end of a program has no attack."""
