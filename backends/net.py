"""``vhost-emu-net``: a vhost-user-net back-end: NICs in loopback, on a switch, or on TAP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from backends.fabric import Fabric, Uplink
from backends.net_config import DEFAULT_MTU, parse_mac
from backends.net_device import NetDevice, Network
from backends.options import (
    CONTEXT,
    DESCRIPTOR,
    PathText,
    Settings,
    backend_options,
    rings_option,
    settings_from,
)
from backends.program import Program, run_command
from backends.tap import TapPort, inherit_tap, open_tap
from backends.trace_options import trace_options
from vhost_user.virtio.net import MTU_RANGE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backends.loop import Loop

NAME = "vhost-emu-net"
CAPABILITIES: dict[str, object] = {"type": NetDevice.backend_type, "features": []}


class NetProgram(Program):
    """NICs, the fabric between them, and an uplink."""

    def __init__(
        self,
        settings: Settings,
        *,
        rings: int,
        switch: bool,
        uplink: str | None,
        uplink_peer: str | None,
        macs: Sequence[bytes] = (),
        mtu: int | None = None,
        taps: Sequence[str] = (),
        tap_fds: Sequence[int] = (),
    ) -> None:
        super().__init__(settings)
        self._macs = macs
        self._mtu = mtu
        self._taps = taps
        self._tap_fds = tap_fds
        self._ports: list[TapPort] = []
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
        network = self._port(number, loop) or self._fabric
        mac = self._macs[number] if self._macs else None
        return NetDevice(name, loop, self._rings, network, counters, mac=mac, mtu=self._mtu)

    def _port(self, number: int, loop: Loop) -> Network | None:
        """The TAP device of the NIC with this number, if it has one."""
        if number < len(self._taps):
            name = self._taps[number]
            port = TapPort(loop, name, open_tap(name, self._rings // 2))
        elif number < len(self._tap_fds):
            fd = self._tap_fds[number]
            port = TapPort(loop, inherit_tap(fd), [fd])
        else:
            return None
        self._ports.append(port)
        return port

    @property
    def extra_sockets(self) -> Sequence[str]:
        """The uplink's."""
        return () if self._uplink_path is None else (self._uplink_path,)

    def close_extras(self) -> None:
        """Close the uplink and the TAP devices."""
        for port in self._ports:
            port.close()
        if self._uplink is not None:
            self._uplink.close()


def _addresses(
    _context: click.Context, _option: click.Parameter, texts: tuple[str, ...]
) -> list[bytes]:
    """The addresses of an option's texts."""
    try:
        return [parse_mac(text) for text in texts]
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@click.command(help="Serve network cards to vhost-user front-ends.", context_settings=CONTEXT)
@backend_options
@click.option(
    "--mode",
    type=click.Choice(["loopback", "switch"]),
    default="loopback",
    show_default=True,
    help="Return a NIC's frames to it, or forward them to the other NICs as a learning switch.",
)
@click.option(
    "--uplink",
    type=PathText(),
    metavar="PATH",
    help="One more port: a unix datagram socket for Ethernet frames, as QEMU's -netdev dgram.",
)
@click.option(
    "--uplink-peer",
    type=PathText(),
    metavar="PATH",
    help="Send broadcasts of --uplink to this socket, also before it has sent a frame.",
)
@click.option(
    "--tap",
    "taps",
    multiple=True,
    metavar="NAME",
    help="A NIC's TAP device; once for each --socket-path. NICs without one use --mode.",
)
@click.option(
    "--tap-fd",
    "tap_fds",
    multiple=True,
    type=DESCRIPTOR,
    metavar="N",
    help="As --tap, with an inherited descriptor (IFF_TAP, IFF_NO_PI, no IFF_VNET_HDR).",
)
@click.option(
    "--mac",
    "macs",
    multiple=True,
    callback=_addresses,
    metavar="MAC",
    help="A NIC's address; once for each socket. The NIC then has a configuration space, for "
    "front-ends that read it from the back-end; QEMU does not.",
)
@click.option(
    "--mtu",
    type=click.IntRange(MTU_RANGE[0], MTU_RANGE[-1]),
    metavar="N",
    help=f"The largest packet of a NIC.  [default: {DEFAULT_MTU} with --mac, else the front-end's]",
)
@rings_option("Rings of each NIC, two for each pair.", plural="NICs", limits=NetDevice.ring_limits)
@trace_options
def command(
    mode: str,
    uplink: str | None,
    uplink_peer: str | None,
    taps: tuple[str, ...],
    tap_fds: tuple[int, ...],
    macs: list[bytes],
    mtu: int | None,
    num_queues: int,
    **options: Any,
) -> None:
    """The command line."""
    settings = settings_from(options)
    if uplink_peer and not uplink:
        raise click.UsageError("--uplink-peer needs an --uplink")
    if taps and tap_fds:
        raise click.UsageError("use either --tap or --tap-fd")
    if max(len(taps), len(tap_fds)) > settings.devices:
        raise click.UsageError("each --tap belongs to a --socket-path: there are more of them")
    if len(set(taps)) != len(taps):
        raise click.UsageError("each NIC needs a --tap of its own")
    if macs and len(macs) != settings.devices:
        raise click.UsageError("each NIC needs a --mac, or none")
    NetProgram(
        settings,
        macs=macs,
        mtu=mtu,
        rings=num_queues,
        switch=mode == "switch",
        uplink=uplink,
        uplink_peer=uplink_peer,
        taps=taps,
        tap_fds=tap_fds,
    ).run()


def main() -> None:
    """``python -m backends.net``, and ``vhost-emu-net`` (`backends.cli`)."""
    run_command(command, NAME, CAPABILITIES)


if __name__ == "__main__":
    main()
