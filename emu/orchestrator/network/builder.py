"""Builds two hosts, a switch and a client out of network namespaces, and hands them over.

    client ---- switch ---- host A: bridge with a TAP
                  |
                  +-------- host B: bridge with a TAP

Run as a program of its own: it enters namespaces, which only a process without other threads can
do in full, and it takes pyroute2 along, which takes long to import. Nothing has a name outside:
the namespaces are held by the descriptors that are sent back over the inherited socket, and go,
with everything in them, when the last process that has one ends, however it does.
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
    """The network cannot be had; the text says what is missing."""


def _check(result: int, what: str) -> None:
    if result:
        raise BuildError(f"{what}: {os.strerror(ctypes.get_errno())}")


def gain_privilege() -> None:
    """Become root of a user namespace where this user is not root of the host."""
    if os.geteuid() == 0:
        return
    uid, gid = os.geteuid(), os.getegid()
    _check(_LIBC.unshare(_CLONE_NEWUSER), "neither root nor a user namespace can be had")
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        Path("/proc/self", name).write_text(text)


def new_namespace() -> int:
    """Enter a new network namespace; a descriptor of it."""
    _check(_LIBC.unshare(_CLONE_NEWNET), "no network namespace can be had (CAP_SYS_ADMIN)")
    with suppress(OSError):  # neighbours that look for routers would only be noise
        Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1")
    return os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def enter(namespace: int) -> None:
    """Go back to a namespace."""
    _check(_LIBC.setns(namespace, _CLONE_NEWNET), "a network namespace cannot be entered")


def build(client_mac: str) -> list[int]:
    """Make everything.

    Returns:
        Descriptors: the TAPs of host A and B, the client's sockets for IPv4 and for ARP, and four
        that hold the namespaces.
    """
    switch = new_namespace()
    _bridge([])
    taps, held = [], [switch]
    for host in HOSTS:
        namespace = new_namespace()
        held.append(namespace)
        enter(switch)
        _cable(host, namespace, UPLINK)
        enter(namespace)
        taps += open_tap(TAP, 1)
        _bridge([TAP, UPLINK])
    namespace = new_namespace()
    held.append(namespace)
    enter(switch)
    _cable(CLIENT, namespace, CLIENT)
    _attach([*HOSTS, CLIENT])
    enter(namespace)
    _up(CLIENT, address=client_mac)
    return [*taps, _listen(IPV4_ETHERTYPE), _listen(ARP_ETHERTYPE), *held]


def _listen(ethertype: int) -> int:
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ethertype))
    sock.bind((CLIENT, ethertype))
    sock.setblocking(False)  # noqa: FBT003  it has no keyword
    return sock.detach()


def _cable(name: str, namespace: int, far: str) -> None:
    """A veth whose far end is in another namespace."""
    with _routes() as ip:
        peer = {"ifname": far, "net_ns_fd": namespace}
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
    """Netlink of the namespace that this process is in."""
    from pyroute2 import IPRoute

    return IPRoute()


def main() -> None:
    """Build, and send what was built; or say why it cannot be."""
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
