"""The baseline of `emu conform`: the options ``--known`` and ``--write-known``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from emu.commands import validate, written_file
from emu.errors import EmuError, PreflightError
from vhost_user_conformance.model import baseline

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from emu.commands.conform_options import ConformOptions
    from vhost_user_conformance.model.case import Case
    from vhost_user_conformance.model.result import CaseResult, Known


@dataclass(frozen=True, slots=True)
class Baseline:
    """The known failures of a run, and the file that is to be written.

    Attributes:
        path: of ``--known``.
        target: of ``--write-known``.
        known: the known failures, by the cases' ids.
    """

    path: Path | None = None
    target: Path | None = None
    known: Mapping[str, Known] = field(default_factory=dict)

    @classmethod
    def of(cls, options: ConformOptions, cases: Iterable[Case]) -> Self:
        """The baseline that the options name.

        Args:
            options: of the command.
            cases: all cases for the role of the peer.

        Raises:
            PreflightError: a file cannot be read or written.
            vhost_user_conformance.errors.OptionError: the contents are wrong.
        """
        validate.output_file("--write-known", options.write_known)
        known: Mapping[str, Known] = {}
        if options.known is not None:
            try:
                known = baseline.read("--known", options.known, cases)
            except OSError as error:
                raise PreflightError(f"--known {options.known}: {error.strerror}") from None
        return cls(options.known, options.write_known, known)

    @property
    def used(self) -> bool:
        """Whether there are known failures, perhaps none."""
        return self.path is not None

    def marked(self, result: CaseResult) -> CaseResult:
        """The result, with what is known of its case."""
        return baseline.marked(result, self.known)

    def write(self, results: Sequence[CaseResult]) -> bool:
        """Write the file, and return whether there is one.

        Raises:
            EmuError: it cannot be written.
        """
        if self.target is None:
            return False
        text = baseline.updated(results, self.known)
        written_file.write("--write-known", self.target, text)
        return True

    def check(self, results: Iterable[CaseResult]) -> None:
        """Check that each known failure of the run still is one.

        Raises:
            EmuError: one is not; the line says how the file is brought up to date.
        """
        mended = [result for result in results if result.mended]
        if mended and self.path is not None:
            why = baseline.complaint("--known", self.path, mended)
            raise EmuError(f"{why}, or use --write-known")
