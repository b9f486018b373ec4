"""`emu run`."""

from __future__ import annotations

import click


@click.command()
def run() -> None:
    """Skeleton."""
