"""The suite's QMP client, against a server that the test plays."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING, Any

import pytest

from tests.timeouts import TIMEOUT
from vhost_user.readiness import readable
from vhost_user_conformance.front_end.acts import LOG, MIGRATE, STOP
from vhost_user_conformance.front_end.qmp import COMMANDS, Qmp

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Server:
    """The other end: what it has received, and what it sends."""

    def __init__(self, path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            listener.listen(1)
            self.client = Qmp(path)
            self.sock, _ = listener.accept()
        self.sock.settimeout(TIMEOUT)
        self._file = self.sock.makefile("rb")

    def command(self) -> dict[str, Any]:
        """The next command."""
        found: dict[str, Any] = json.loads(self._file.readline())
        return found

    def send(self, data: bytes) -> None:
        """Send bytes, and have the client read them."""
        self.sock.sendall(data)
        assert readable([self.client], 10)
        self.client.take()

    def close(self) -> None:
        """Close both ends."""
        self.client.close()
        self._file.close()
        self.sock.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server whose client has sent `qmp_capabilities` and has its response."""
    made = Server(tmp_path / "qmp")
    assert made.command()["execute"] == "qmp_capabilities"
    made.send(b'{"QMP": {}}\r\n{"return": {}}\r\n')
    yield made
    made.close()


def test_the_address_of_the_destination_is_in_the_command(server: Server) -> None:
    """Also in the second form, which is tried where an argument is missing."""
    server.client.do(MIGRATE, uri="unix:/in")
    assert server.command() == {"execute": "migrate", "arguments": {"uri": "unix:/in"}}
    missing = {"class": "GenericError", "desc": "Parameter 'strategy' is missing"}
    server.send(json.dumps({"error": missing}).encode() + b"\r\n")
    assert server.command()["arguments"]["uri"] == "unix:/in"


def test_a_response_may_come_in_pieces(server: Server) -> None:
    """The command has its response when the whole line is there."""
    server.client.do(STOP)
    assert server.command() == {"execute": "stop", "arguments": {}}
    server.send(b'{"event": "STOP"}\r\n{"ret')
    before = server.client.answered
    server.send(b'urn": {}}\r\n')
    assert (before, server.client.answered) == (False, True)
    assert not server.client.refusal


@pytest.mark.parametrize(
    ("error", "tried"),
    [
        ({"class": "CommandNotFound", "desc": "no such command"}, True),
        ({"class": "GenericError", "desc": "Parameter 'uri' is unexpected"}, True),
        ({"class": "GenericError", "desc": "State blocked"}, False),
    ],
)
def test_the_next_command_is_tried(server: Server, error: dict[str, str], *, tried: bool) -> None:
    """Where the front-end does not know the first one; otherwise its error is the outcome."""
    server.client.do(LOG)
    server.command()
    server.send(json.dumps({"error": error}).encode() + b"\r\n")
    assert server.client.answered is not tried
    if tried:
        assert server.command()["execute"] == COMMANDS[LOG][1][0]
    else:
        assert server.client.refusal == "State blocked"


@pytest.mark.parametrize("data", [b"hello\r\n", b"[1]\r\n", b'{"return": \r\n'])
def test_what_is_not_qmp(server: Server, data: bytes) -> None:
    """Ends the wait for a response."""
    server.client.do(STOP)
    server.send(data)
    assert server.client.answered
    assert server.client.closed
    assert server.client.refusal


def test_a_server_that_closes(server: Server) -> None:
    """Ends the wait for a response, too."""
    server.client.do(STOP)
    server.sock.close()
    server._file.close()
    assert readable([server.client], 10)
    server.client.take()
    assert server.client.closed
