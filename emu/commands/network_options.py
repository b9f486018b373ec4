"""The option ``--network``: the network between the VM and the client outside of it."""

from __future__ import annotations

import click

from backends.options import option_group
from emu.config.plan import NETWORKS

_OPTIONS = (
    click.option(
        "--network",
        type=click.Choice(NETWORKS),
        default="loopback",
        show_default=True,
        help="What the NICs reach: a socket of the first NIC's back-end, or "
        "bridges and a client in network namespaces.",
    ),
)


#: Decorator: the options of the network.
network_options = option_group(*_OPTIONS)
