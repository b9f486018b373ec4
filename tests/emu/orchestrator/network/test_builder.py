"""The program that builds the network: its descriptors, or the reason why there are none."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from emu.orchestrator.network.builder import main
from emu.orchestrator.network.echo import CLIENT_MAC
from tests.emu.orchestrator.network.spaces import interfaces
from tests.timeouts import PROGRAM_TIMEOUT

PROGRAM = ("-m", main.__module__)
#: The same without the package that it needs.
WITHOUT = (
    "-c",
    f"import sys; sys.modules['pyroute2'] = None; from {main.__module__} import main; main()",
)


def built(*argv: str) -> tuple[dict[str, Any], list[int]]:
    """The program's message and its descriptors."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        arguments = [sys.executable, *argv, str(theirs.fileno()), CLIENT_MAC.hex(":")]
        subprocess.run(arguments, pass_fds=(theirs.fileno(),), check=True, timeout=PROGRAM_TIMEOUT)
        answer, fds, _, _ = socket.recv_fds(ours, 65536, 16)
    return json.loads(answer), fds


def test_the_descriptors_are_two_taps_two_sockets_and_four_namespaces() -> None:
    """This process stays in its own namespace."""
    before = interfaces()
    answer, fds = built(*PROGRAM)
    if "error" in answer:
        pytest.skip(f"no network of namespaces: {answer['error']}")
    assert answer == {}
    *taps, ipv4, arp, switch, one, other, client = fds
    assert len(taps) == 2
    assert all(stat.S_ISCHR(os.fstat(tap).st_mode) for tap in taps)
    for fd in (ipv4, arp):
        with socket.socket(fileno=os.dup(fd)) as sock:
            assert (sock.family, sock.type) == (socket.AF_PACKET, socket.SOCK_RAW)
    spaces = {str(Path(f"/proc/self/fd/{fd}").readlink()) for fd in (switch, one, other, client)}
    assert len(spaces) == 4
    assert all(name.startswith("net:[") for name in spaces)
    assert str(Path("/proc/self/ns/net").readlink()) not in spaces
    assert interfaces() == before
    for fd in fds:
        os.close(fd)


def test_a_reason_is_sent_if_the_package_is_missing() -> None:
    """Or if the user lacks the privilege, which is needed first."""
    answer, fds = built(*WITHOUT)
    assert fds == []
    if os.geteuid() == 0 and "namespace" not in answer["error"]:
        assert answer == {"error": "the Python package pyroute2 is missing"}
