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
        help="The network between the first NIC and the client that measures the downtime: a "
        "socket of the NIC's back-end, or TAP devices and bridges in network namespaces.",
    ),
)


#: Decorator: the options of the network.
network_options = option_group(*_OPTIONS)
