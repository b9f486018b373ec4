"""The option ``--json`` of all commands that have one, and where their documents go."""

from __future__ import annotations

import json
import os
import stat
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from emu.errors import EmuError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_STDOUT = Path("-")
_STDOUT_NAMES = {_STDOUT, Path("/dev/stdout"), Path("/dev/fd/1"), Path("/proc/self/fd/1")}


def is_stdout(path: Path | None) -> bool:
    """Whether the option's value means stdout."""
    return path in _STDOUT_NAMES


def is_stream(path: Path) -> bool:
    """Whether it is written to in place, such as a FIFO, ``/dev/null`` or ``>(command)``."""
    mode = path.stat().st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)


def json_option(what: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: ``--json``, as ``json_file``. Without a file it stands for stdout.

    Args:
        what: is written there.
    """
    return click.option(
        "--json",
        "json_file",
        type=click.Path(path_type=Path),
        is_flag=False,
        flag_value=str(_STDOUT),
        metavar="[FILE]",
        help=f"Write {what} as JSON, to a file or a pipe; to stdout without a FILE, or if it is -.",
    )


def report_stream(path: Path | None) -> TextIO:
    """Where the human-readable report goes: to stderr if the document goes to stdout.

    Args:
        path: the option's value.
    """
    return sys.stderr if is_stdout(path) else sys.stdout


def deliver(path: Path | None, document: Mapping[str, Any]) -> None:
    """Write a document where it is to go; into a file whole or not at all.

    Args:
        path: the option's value; None for nowhere.
        document: what `json` can write.

    Raises:
        EmuError: it cannot be written.
    """
    if path is None:
        return
    text = json.dumps(document, indent=1)
    if is_stdout(path):
        click.echo(text)
        return
    part = path.with_name(f".{os.getpid()}.json")
    try:
        if path.exists() and is_stream(path):
            path.write_text(text + "\n")
            return
        part.write_text(text + "\n")
        part.replace(path)
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise EmuError(f"--json {path}: {error.strerror}") from None
