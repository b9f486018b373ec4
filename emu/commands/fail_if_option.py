"""The option ``--fail-if``: gates on the figures of migrations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from emu.commands import completion
from emu.errors import EmuError, OptionError
from vhost_user.one_line import one_line

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from emu.qmp.protocol import JsonObject
    from emu.report.gates import Gate

#: Decorator: conditions, as ``fail_if``.
fail_if_option = click.option(
    "--fail-if",
    multiple=True,
    metavar="CONDITION",
    shell_complete=completion.conditions,
    help="Exit with status 1 if this holds, such as 'prewired.downtime_ms > 30': a strategy, a "
    "field of the JSON report (its median with --repeat), an operator and a number. May be given "
    "several times.",
)


def gates(texts: Iterable[str], strategies: Collection[str]) -> list[Gate]:
    """The conditions of the option.

    Args:
        texts: as given.
        strategies: names of those that will run.

    Raises:
        OptionError: one is invalid, or is about a strategy that does not run.
    """
    from emu.report.gates import GateError, parse

    found = []
    for text in texts:
        try:
            found.append(parse(text, strategies))
        except GateError as error:
            raise OptionError(f"--fail-if {one_line(text, 80)!r}: {error}") from None
    return found


def check(found: Sequence[Gate], documents: Iterable[tuple[str, JsonObject]]) -> None:
    """Check that no condition holds.

    Args:
        found: the conditions.
        documents: JSON reports of migrations, each with a text that says of which VM.

    Raises:
        EmuError: one does; its line has the values.
    """
    from emu.report.gates import failures

    if lines := failures(found, documents):
        raise EmuError(f"--fail-if {'; '.join(lines)}")
