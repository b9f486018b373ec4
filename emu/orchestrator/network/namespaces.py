"""The run's handle on a network of namespaces: descriptors that keep it, and use it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from typing import Self

from emu.errors import EmuError
from emu.orchestrator.managed_process import PYTHON
from emu.orchestrator.network.echo import CLIENT_MAC

#: Seconds that making it may take; on a busy machine most of it goes to starting Python.
BUILD_DEADLINE = 20.0
_FDS = 8


class NetworkUnavailableError(EmuError):
    """There can be no such network here; the text says what is missing."""


class NamespaceNetwork:
    """Two hosts with a TAP device each, and a client.

    It vanishes when `close` is called or this process ends: nothing in it has a name.

    Attributes:
        taps: descriptors of the TAP of host A and of host B; each goes to a back-end program.
        ipv4, arp: descriptors of the client's sockets, which receive one ethertype each.
    """

    def __init__(self, fds: list[int]) -> None:
        self.taps = fds[:2]
        self.ipv4, self.arp = fds[2:4]
        self._fds = fds

    @classmethod
    def build(cls) -> Self:
        """Have a program make it.

        Raises:
            NetworkUnavailableError: this user, or this host, cannot.
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
                    timeout=BUILD_DEADLINE,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                raise NetworkUnavailableError(f"not made within {BUILD_DEADLINE:g} s") from None
            ours.setblocking(False)  # noqa: FBT003  it has no keyword
            try:
                said, fds, _, _ = socket.recv_fds(ours, 65536, _FDS)
            except BlockingIOError:
                last = ended.stderr.decode(errors="replace").strip().rpartition("\n")[2]
                raise NetworkUnavailableError(f"the builder ended without a word: {last}") from None
        error = json.loads(said).get("error")
        if error is not None:
            raise NetworkUnavailableError(error)
        return cls(fds)

    def close(self) -> None:
        """Let go of all of it. Again is harmless."""
        for fd in self._fds:
            os.close(fd)
        self._fds = []
