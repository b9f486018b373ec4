"""The option ``--json``, and writing the documents of all commands that have it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from backends.options import FilePath
from emu.commands import written_file

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

#: The value of an option that means stdout, where it takes that.
DASH = Path("-")
_STDOUT_NAMES = {DASH, Path("/dev/stdout"), Path("/dev/fd/1"), Path("/proc/self/fd/1")}


def is_stdout(path: Path | None) -> bool:
    """Whether the option's value means stdout."""
    return path in _STDOUT_NAMES


def json_option(what: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: ``--json``, as ``json_file``. Without a file it is stdout.

    Args:
        what: the contents of the document, for the help text.
    """
    return click.option(
        "--json",
        "json_file",
        type=FilePath(),
        is_flag=False,
        flag_value=str(DASH),
        metavar="[FILE]",
        help=f"Write {what} as JSON, to a file or a pipe; to stdout without a FILE, or if it is -.",
    )


def report_stream(path: Path | None) -> TextIO:
    """The stream of the human-readable report: stderr if the document is written to stdout.

    Args:
        path: the option's value.
    """
    return sys.stderr if is_stdout(path) else sys.stdout


def deliver(path: Path | None, document: Mapping[str, Any]) -> None:
    """Write a document; a file is replaced atomically.

    Args:
        path: the option's value; None if the option is not given.
        document: serialisable as JSON.

    Raises:
        EmuError: the document cannot be written.
    """
    if path is None:
        return
    text = json.dumps(document, indent=1)
    if is_stdout(path):
        click.echo(text)
        return
    written_file.write("--json", path, text + "\n")
