"""The options ``--report`` and ``--png``: the result as a page, and as a picture."""

from __future__ import annotations

import importlib
import re
import shlex
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

import click

from backends.options import FilePath, option_group
from emu.commands import validate, written_file
from emu.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from emu.qmp.protocol import JsonObject
    from emu.report.page.content import Page

#: What the extra installs, and this distribution does not need otherwise.
_MODULES = ("jinja2", "vl_convert")
_EXTRA = "vhost-emu[report]"
#: Values of such names do not become part of a report.
_SECRET = re.compile(
    r"(?i)([\w-]*(?:password|passwd|passphrase|secret|token|api[-_]?key)[= :]+)[^\s,;'\"]+"
)


@dataclass(frozen=True, slots=True)
class ReportFiles:
    """Where a result goes, besides the terminal; None for nowhere."""

    report_file: Path | None = None
    png_file: Path | None = None

    def __bool__(self) -> bool:
        return bool(self.report_file or self.png_file)

    def deliver(self, kind: str, document: JsonObject) -> None:
        """Write the files that were asked for.

        Args:
            kind: the module of `emu.report.page` that makes the page.
            document: what ``--json`` writes.

        Raises:
            EmuError: a file cannot be written.
        """
        if self:
            module = importlib.import_module(f"emu.report.page.{kind}")
            self.write(module.page(document))

    def write(self, page: Page) -> None:
        """Write a page to the files.

        Raises:
            EmuError: a file cannot be written.
        """
        from emu.report.page import render

        for option, path, draw in (
            ("--report", self.report_file, render.html),
            ("--png", self.png_file, render.picture),
        ):
            if path is not None:
                written_file.write(option, path, draw(page))


def _check(_context: click.Context, option: click.Parameter, path: Path | None) -> Path | None:
    """Check before the run that the file can be written, and by whom."""
    if path is None:
        return None
    name = option.opts[-1]
    missing = [module for module in _MODULES if find_spec(module) is None]
    if missing:
        raise OptionError(f"{name} needs {missing[0]}: pip install '{_EXTRA}'")
    validate.output_file(name, path)
    if name == "--png":
        validate.binary_output(name, path)
    return path


#: ``--report`` and ``--png``, the fields of `ReportFiles`.
REPORT_OPTIONS = (
    click.option(
        "--report",
        "report_file",
        type=FilePath(),
        callback=_check,
        metavar="FILE",
        help="Write the result as one page of HTML, with its charts.",
    ),
    click.option(
        "--png",
        "png_file",
        type=FilePath(),
        callback=_check,
        metavar="FILE",
        help="Write the main charts of the result as one picture.",
    ),
)
#: Decorator: both.
report_options = option_group(*REPORT_OPTIONS)


def command_line(words: Sequence[str] | None = None) -> str:
    """The command that was given, quoted for a shell; without values that are called secret.

    Args:
        words: the arguments; by default those of this process.
    """
    quoted = shlex.join(["emu", *(sys.argv[1:] if words is None else words)])
    return _SECRET.sub(r"\1***", quoted)
