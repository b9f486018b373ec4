"""A network of namespaces: the descriptors that use it and keep it."""

from __future__ import annotations

import os
import socket
import subprocess
from typing import Self

from emu.errors import EmuError
from emu.json_input import parse
from emu.orchestrator.managed_process import PYTHON
from emu.orchestrator.network.echo import CLIENT_MAC

#: Seconds for the builder program, which on a busy host takes long to start.
BUILD_TIMEOUT = 20.0
_FDS = 8


class NetworkUnavailableError(EmuError):
    """The network cannot be created on this host; the text has the reason."""


class NamespaceNetwork:
    """Two hosts with a TAP device each, and a client.

    The kernel removes it when `close` is called or this process ends: it has no names.

    Attributes:
        taps: descriptors of the TAPs of host A and host B, one for each side's back-end program.
        ipv4, arp: descriptors of the client's sockets, which receive one ethertype each.
    """

    def __init__(self, fds: list[int]) -> None:
        self.taps = fds[:2]
        self.ipv4, self.arp = fds[2:4]
        self._fds = fds

    @classmethod
    def build(cls) -> Self:
        """Build the network, in a program of its own (`emu.orchestrator.network.builder`).

        Raises:
            NetworkUnavailableError: the user lacks the privilege, or the host a feature.
        """
        ours, theirs = socket.socketpair()
        with ours, theirs:
            number = str(theirs.fileno())
            argv = [*PYTHON, "-m", "emu.orchestrator.network.builder", number, CLIENT_MAC.hex(":")]
            try:
                ended = subprocess.run(
                    argv,
                    pass_fds=(theirs.fileno(),),
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    timeout=BUILD_TIMEOUT,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                raise NetworkUnavailableError(f"not built within {BUILD_TIMEOUT:g} s") from None
            ours.setblocking(False)  # noqa: FBT003  it has no keyword
            try:
                answer, fds, _, _ = socket.recv_fds(ours, 65536, _FDS)
            except BlockingIOError:
                last = ended.stderr.decode(errors="replace").strip().rpartition("\n")[2]
                raise NetworkUnavailableError(f"the builder ended unexpectedly: {last}") from None
        error = parse(answer).get("error")
        if error is not None:
            raise NetworkUnavailableError(error)
        return cls(fds)

    def close(self) -> None:
        """Close all descriptors; idempotent."""
        for fd in self._fds:
            os.close(fd)
        self._fds = []
