"""The options ``--scheduler`` and ``--workers`` of commands whose work is divided."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable


def scheduler_options(work: str, default: str | None = None) -> tuple[Callable[..., Any], ...]:
    """Both options.

    Args:
        work: what the workers do, for the help text.
        default: the scheduler of a command that needs one.
    """
    return (
        click.option(
            "--scheduler",
            default=default,
            show_default=default is not None,
            metavar="local|tcp://HOST:PORT",
            help=f"Let workers of dask.distributed {work}: processes on this host, each with cores "
            "of its own, or those of a scheduler that you have started.",
        ),
        click.option(
            "--workers",
            type=click.IntRange(min=1),
            metavar="N",
            help="Workers of --scheduler local. [default: one for each two cores]",
        ),
    )
