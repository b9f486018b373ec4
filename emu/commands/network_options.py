"""Options of `emu migrate` that say what is between the VM and the client outside of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from emu.config.plan import NETWORKS

if TYPE_CHECKING:
    from collections.abc import Callable

_OPTIONS = (
    click.option(
        "--network",
        type=click.Choice(NETWORKS),
        default="loopback",
        show_default=True,
        help="A socket to the first NIC's back-end, or hosts, bridges and a client of namespaces.",
    ),
)


def network_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator: the options of the network."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
