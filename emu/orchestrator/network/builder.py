"""Builds two hosts, a switch and a client from network namespaces, and sends their descriptors.

    client ---- switch ---- host A: bridge with a TAP
                  |
                  +-------- host B: bridge with a TAP

It runs as a program of its own: entering a user namespace needs a process with one thread, and
importing pyroute2 takes long. The namespaces have no names: the descriptors that are sent over the
inherited socket keep them, and the kernel removes them, with all devices, when the last of these
descriptors is closed.
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from backends.server import ServerError
from backends.tap import open_tap
from emu.guest.arp_icmp import ARP_ETHERTYPE, IPV4_ETHERTYPE

#: Names within the namespaces.
TAP, UPLINK, BRIDGE, CLIENT = "tap0", "uplink", "bridge", "client"
HOSTS = ("A", "B")
_CLONE_NEWNET, _CLONE_NEWUSER = 0x40000000, 0x10000000
_LIBC = ctypes.CDLL(None, use_errno=True)


class BuildError(Exception):
    """The network cannot be created; the text has the reason."""


def _check(result: int, problem: str) -> None:
    if result:
        raise BuildError(f"{problem}: {os.strerror(ctypes.get_errno())}")


def gain_privilege() -> None:
    """Become root of a user namespace, unless this user is root of the host."""
    if os.geteuid() == 0:
        return
    uid, gid = os.geteuid(), os.getegid()
    _check(_LIBC.unshare(_CLONE_NEWUSER), "this user is not root, and cannot have a user namespace")
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        Path("/proc/self", name).write_text(text)


def new_namespace() -> int:
    """Create and enter a network namespace; return a descriptor of it."""
    _check(_LIBC.unshare(_CLONE_NEWNET), "a network namespace cannot be created (CAP_SYS_ADMIN)")
    with suppress(OSError):  # no IPv6 router solicitations
        Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1")
    return os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def enter(namespace: int) -> None:
    """Enter an existing namespace."""
    _check(_LIBC.setns(namespace, _CLONE_NEWNET), "a network namespace cannot be entered")


def build(client_mac: str) -> list[int]:
    """Build the network.

    Returns:
        Descriptors: the TAPs of host A and B, the client's sockets for IPv4 and for ARP, and the
        four namespaces.
    """
    switch = new_namespace()
    _bridge([])
    taps, namespaces = [], [switch]
    for host in HOSTS:
        namespace = new_namespace()
        namespaces.append(namespace)
        enter(switch)
        _add_veth(host, namespace, UPLINK)
        enter(namespace)
        taps += open_tap(TAP, 1)
        _bridge([TAP, UPLINK])
    namespace = new_namespace()
    namespaces.append(namespace)
    enter(switch)
    _add_veth(CLIENT, namespace, CLIENT)
    _attach([*HOSTS, CLIENT])
    enter(namespace)
    _up(CLIENT, address=client_mac)
    return [*taps, _listen(IPV4_ETHERTYPE), _listen(ARP_ETHERTYPE), *namespaces]


def _listen(ethertype: int) -> int:
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ethertype))
    sock.bind((CLIENT, ethertype))
    sock.setblocking(False)  # noqa: FBT003  it has no keyword
    return sock.detach()


def _add_veth(name: str, namespace: int, peer_name: str) -> None:
    """Add a veth whose peer is in another namespace."""
    with _routes() as ip:
        peer = {"ifname": peer_name, "net_ns_fd": namespace}
        ip.link("add", ifname=name, kind="veth", peer=peer)


def _bridge(ports: list[str]) -> None:
    with _routes() as ip:
        ip.link("add", ifname=BRIDGE, kind="bridge", br_stp_state=0, br_forward_delay=0)
    _up(BRIDGE)
    _attach(ports)


def _attach(ports: list[str]) -> None:
    with _routes() as ip:
        (bridge,) = ip.link_lookup(ifname=BRIDGE)
        for port in ports:
            (index,) = ip.link_lookup(ifname=port)
            ip.link("set", index=index, master=bridge, state="up")


def _up(name: str, **attributes: str) -> None:
    with _routes() as ip:
        (index,) = ip.link_lookup(ifname=name)
        ip.link("set", index=index, state="up", **attributes)


def _routes() -> Any:
    """A netlink socket of the current namespace."""
    from pyroute2 import IPRoute

    return IPRoute()


def main() -> None:
    """Build the network and send its descriptors, or send the reason why that fails."""
    sock = socket.socket(fileno=int(sys.argv[1]))
    try:
        gain_privilege()
        fds = build(sys.argv[2])
    except ImportError:
        reason = "the Python package pyroute2 is missing"
    except (BuildError, ServerError, OSError) as error:
        reason = str(error)
    except Exception as error:  # noqa: BLE001 - pyroute2 has errors of its own, not all OSErrors
        reason = f"{type(error).__name__}: {error}"
    else:
        socket.send_fds(sock, [b"{}"], fds)
        return
    sock.send(json.dumps({"error": reason}).encode())


if __name__ == "__main__":
    main()
