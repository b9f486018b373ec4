"""Whatever binds a unix socket here leaves other programs' sockets and files alone."""

from __future__ import annotations

import socket
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from backends import server
from emu.errors import EmuError, MigrationError, PreflightError
from emu.migration.endpoint import Listener
from emu.orchestrator.network.echo import ProbeClient
from emu.qmp.listener import MonitorListener
from vhost_user import unix_socket

if TYPE_CHECKING:
    from collections.abc import Callable

STREAM, DGRAM = socket.SOCK_STREAM, socket.SOCK_DGRAM


class Binder(NamedTuple):
    """What binds a socket at a path: how, the socket's kind, and what it raises."""

    bind: Callable[[str], Any]
    kind: socket.SocketKind
    refused: type[Exception]


class Echo:
    """An echo client that closes its socket as the others do."""

    def __init__(self, path: str) -> None:
        self._client = ProbeClient([], path)

    def close(self) -> None:
        """Close and remove the socket."""
        self._client._close()


BINDERS = {
    "unix_socket": Binder(lambda path: unix_socket.bind(path, DGRAM), DGRAM, OSError),
    "back-end": Binder(server.listen, STREAM, server.ServerError),
    "uplink": Binder(lambda path: server.bind(path, DGRAM), DGRAM, server.ServerError),
    "QMP": Binder(lambda path: MonitorListener(Path(path), {}), STREAM, PreflightError),
    "echo client": Binder(Echo, DGRAM, EmuError),
    "migration": Binder(lambda path: Listener(f"unix:{path}"), STREAM, MigrationError),
}
EVERY_BINDER = pytest.mark.parametrize("binder", BINDERS.values(), ids=list(BINDERS))


@EVERY_BINDER
def test_a_socket_in_use_is_refused_and_goes_on_working(binder: Binder, tmp_path: Path) -> None:
    """Its process still gets what is sent there."""
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX, binder.kind) as other:
        other.bind(str(path))
        if binder.kind == STREAM:
            other.listen()
        with pytest.raises(binder.refused):
            binder.bind(str(path))
        with socket.socket(socket.AF_UNIX, binder.kind) as client:
            client.connect(str(path))


@EVERY_BINDER
def test_a_stale_socket_is_replaced(binder: Binder, tmp_path: Path) -> None:
    """A killed process has left it."""
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX, binder.kind) as killed:
        killed.bind(str(path))
    assert path.is_socket()
    with closing(binder.bind(str(path))), socket.socket(socket.AF_UNIX, binder.kind) as client:
        client.connect(str(path))


@EVERY_BINDER
def test_a_file_is_not_replaced(binder: Binder, tmp_path: Path) -> None:
    """Its contents stay."""
    path = tmp_path / "file"
    path.write_text("precious")
    with pytest.raises(binder.refused):
        binder.bind(str(path))
    assert path.read_text() == "precious"


@EVERY_BINDER
@pytest.mark.parametrize("length", [108, 300])
def test_a_path_that_is_too_long_is_refused(binder: Binder, length: int, tmp_path: Path) -> None:
    """With an error of the caller's own class."""
    with pytest.raises(binder.refused):
        binder.bind(str(tmp_path / ("x" * length)))
