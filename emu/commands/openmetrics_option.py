"""The option ``--openmetrics``: the figures of a run for a monitoring system."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from backends.options import FilePath
from emu.commands import validate, written_file

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from emu.qmp.protocol import JsonObject


def _checked(_context: click.Context, _option: click.Parameter, path: Path | None) -> Path | None:
    validate.output_file("--openmetrics", path)
    return path


#: Decorator: a file, as ``openmetrics``.
openmetrics_option = click.option(
    "--openmetrics",
    type=FilePath(),
    callback=_checked,
    metavar="FILE",
    help="Write the figures as OpenMetrics text, for example for the textfile collector of "
    "node_exporter.",
)


def deliver_migrations(path: Path | None, documents: Sequence[JsonObject]) -> None:
    """Write the figures of documents of `emu migrate`; without a path nothing is done.

    Raises:
        EmuError: the file cannot be written.
    """
    if path is not None:
        from emu.report import openmetrics

        written_file.write("--openmetrics", path, openmetrics.migrations(documents))


def deliver_conformance(path: Path | None, document: JsonObject) -> None:
    """Write the figures of a document of `emu conform`; without a path nothing is done.

    Raises:
        EmuError: the file cannot be written.
    """
    if path is not None:
        from emu.report import openmetrics

        written_file.write("--openmetrics", path, openmetrics.conformance(document))
