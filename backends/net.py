"""``vhost-emu-net``: a vhost-user-net back-end: a loop for each NIC, or a switch between them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from backends.fabric import Fabric, Uplink
from backends.net_device import NetDevice
from backends.program import (
    CONTEXT,
    MAX_RINGS,
    Program,
    Settings,
    backend_options,
    run_command,
    settings_from,
)

if TYPE_CHECKING:
    from backends.loop import Loop

NAME = "vhost-emu-net"
CAPABILITIES: dict[str, object] = {"type": "net", "features": []}


class NetProgram(Program):
    """NICs, what connects them, and perhaps a way out."""

    def __init__(
        self,
        settings: Settings,
        *,
        rings: int,
        switch: bool,
        uplink: str | None,
        uplink_peer: str | None,
    ) -> None:
        super().__init__(settings)
        self._rings = rings
        self._fabric = Fabric(switch=switch)
        self._uplink_path = uplink
        self._uplink_peer = uplink_peer
        self._uplink: Uplink | None = None

    def make_device(self, number: int, name: str, loop: Loop) -> NetDevice:
        """A NIC; the first one's loop reads the uplink."""
        if not number and self._uplink_path is not None:
            self._uplink = Uplink(self._fabric, loop, self._uplink_path, self._uplink_peer)
        counters = self.stats.device(number)
        return NetDevice(name, loop, self._rings, self._fabric, counters)

    def close_extras(self) -> None:
        """Close the uplink."""
        if self._uplink is not None:
            self._uplink.close()


@click.command(help="Serve network cards to vhost-user front-ends.", context_settings=CONTEXT)
@backend_options
@click.option(
    "--mode",
    type=click.Choice(["loopback", "switch"]),
    default="loopback",
    show_default=True,
    help="Send a NIC's frames back to it, or to the others.",
)
@click.option(
    "--uplink",
    metavar="PATH",
    help="A way out: a unix datagram socket that speaks Ethernet frames.",
)
@click.option("--uplink-peer", metavar="PATH", help="Send there what is for everybody outside.")
@click.option(
    "--num-queues",
    type=click.IntRange(2, MAX_RINGS),
    default=2,
    show_default=True,
    help="Rings of each NIC, two for each pair.",
)
def command(
    mode: str,
    uplink: str | None,
    uplink_peer: str | None,
    num_queues: int,
    **options: Any,
) -> None:
    """The command line."""
    settings = settings_from(options)
    if num_queues % 2:
        raise click.UsageError(f"--num-queues {num_queues}: a NIC's rings come in pairs")
    if uplink_peer and not uplink:
        raise click.UsageError("--uplink-peer needs an --uplink")
    NetProgram(
        settings,
        rings=num_queues,
        switch=mode == "switch",
        uplink=uplink,
        uplink_peer=uplink_peer,
    ).run()


def main() -> None:
    """Entry point of ``vhost-emu-net`` and ``python -m backends.net``."""
    run_command(command, NAME, CAPABILITIES)


if __name__ == "__main__":
    main()
