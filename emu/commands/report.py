"""`emu report`: makes a page or a picture of a result that was saved as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from backends.options import FilePath
from emu.commands.color_option import color_option
from emu.commands.option_values import values_of
from emu.commands.report_option import ReportFiles, report_options
from emu.errors import EmuError, OptionError
from emu.json_input import JsonInputError
from vhost_user import input_file

if TYPE_CHECKING:
    from pathlib import Path

    from emu.report.page.content import Page

#: Bytes of a result; of a page's data it is a multiple.
MAX_BYTES = 256 << 20

HELP = """Make a page, or a picture, of a result that --json has written.

RESULT is a file that `emu migrate`, `emu sweep`, `emu conform` or `emu tap` has written with
--json. Those commands also have --report and --png themselves.

\b
Examples:
  emu migrate --json result.json
  emu report result.json --report result.html
  emu report result.json --png result.png
"""


@click.command(help=HELP, short_help="Make a page or a picture of a saved result.")
@click.argument("result", type=FilePath())
@report_options
@color_option
def report(result: Path, **options: Any) -> None:
    """Read the result, and write the files."""
    files = values_of(ReportFiles, options)
    if not files:
        raise OptionError("nothing to do: give --report FILE or --png FILE")
    try:
        page = _page(input_file.read(result, MAX_BYTES))
    except OSError as error:
        raise EmuError(f"{result}: {error.strerror}") from None
    except JsonInputError as error:
        raise EmuError(f"{result}: {error}") from None
    for option, path in (("--report", files.report_file), ("--png", files.png_file)):
        if path is not None and path.exists() and path.samefile(result):
            raise OptionError(f"{option} {path}: this file has the result")
    files.write(page)


def _page(data: bytes) -> Page:
    """The page of a document, or of a tap's log: a line of JSON for each message."""
    if data.startswith(b'{"event"'):
        from emu.report.page import tap_page
        from emu.tap.summary import of_log

        return tap_page.page(of_log(data))
    from emu.report.page.page_of import page_of

    return page_of(data)
