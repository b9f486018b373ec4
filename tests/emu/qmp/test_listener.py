"""A monitor at a path: one client after the other, and a close that ends no command early."""

from __future__ import annotations

import json
import select
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

from emu.errors import PreflightError
from emu.qmp.listener import MonitorListener
from tests.timeouts import TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Client:
    """Sends commands and reads lines."""

    def __init__(self, path: Path) -> None:
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.settimeout(TIMEOUT)
        self._sock.connect(str(path))
        self._lines = self._sock.makefile("rb")

    def read(self) -> dict[str, Any]:
        """The next message; empty at the end."""
        message: dict[str, Any] = json.loads(self._lines.readline() or b"{}")
        return message

    def send(self, command: str) -> None:
        """Send a command."""
        self._sock.sendall(json.dumps({"execute": command}).encode() + b"\n")

    def close(self) -> None:
        """Hang up."""
        self._lines.close()
        self._sock.close()


def negotiated(path: Path) -> Client:
    """A client that has negotiated."""
    client = Client(path)
    assert "QMP" in client.read()
    client.send("qmp_capabilities")
    assert client.read() == {"return": {}}
    return client


def broken() -> None:
    """A handler with a bug."""
    raise KeyError("x")


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[MonitorListener]:
    """A listener that serves."""
    made = MonitorListener(tmp_path / "qmp", {"x-broken": broken})
    made.start()
    yield made
    made.close()
    assert not (tmp_path / "qmp").exists()


def is_over(listener: MonitorListener, timeout: float = TIMEOUT) -> bool:
    """Whether `over_fd` becomes readable in time."""
    return bool(select.select([listener.over_fd], [], [], timeout)[0])


def test_one_client_after_the_other(listener: MonitorListener, tmp_path: Path) -> None:
    """Each has its own session; events go to the one that is connected."""
    listener.emit("WITHOUT_CLIENT", {})
    for name in ("ONE", "TWO"):
        client = negotiated(tmp_path / "qmp")
        listener.emit(name, {"n": 1})
        assert client.read()["event"] == name
        client.close()
    assert not is_over(listener, 0)


def test_quit(listener: MonitorListener, tmp_path: Path) -> None:
    """It has a response, and then `over_fd` is readable."""
    client = negotiated(tmp_path / "qmp")
    client.send("quit")
    assert client.read() == {"return": {}}
    assert is_over(listener)
    assert listener.failure is None
    client.close()


def test_an_exception_of_a_handler_ends_the_monitor(
    listener: MonitorListener, tmp_path: Path
) -> None:
    """The thread that waits for the end finds it in `failure`."""
    client = negotiated(tmp_path / "qmp")
    client.send("x-broken")
    assert is_over(listener)
    assert isinstance(listener.failure, KeyError)
    client.close()


def test_a_client_that_connects_before_start_is_served(tmp_path: Path) -> None:
    """The socket exists before the VM runs."""
    listener = MonitorListener(tmp_path / "qmp", {})
    client = Client(tmp_path / "qmp")
    listener.start()
    assert "QMP" in client.read()
    client.close()
    listener.close()


def test_close_waits_for_a_command_and_not_for_a_client(tmp_path: Path) -> None:
    """A command that has begun is executed to its end."""
    began, go_on, done = threading.Event(), threading.Event(), threading.Event()

    def slow() -> None:
        began.set()
        assert go_on.wait(TIMEOUT)
        done.set()

    listener = MonitorListener(tmp_path / "qmp", {"x-slow": slow})
    listener.start()
    client = negotiated(tmp_path / "qmp")
    client.send("x-slow")
    assert began.wait(TIMEOUT)
    closing = threading.Thread(target=listener.close)
    closing.start()
    assert not done.is_set()
    go_on.set()
    closing.join(TIMEOUT)
    assert not closing.is_alive()
    assert done.is_set()
    client.close()


def test_a_stale_socket_is_replaced_and_a_file_is_not(tmp_path: Path) -> None:
    """A file may be the user's."""
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(tmp_path / "left"))
    left.close()
    listener = MonitorListener(tmp_path / "left", {})
    listener.close()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(PreflightError, match=r"--qmp .*file: exists and is not a socket"):
        MonitorListener(tmp_path / "file", {})
    assert (tmp_path / "file").read_text() == "mine"
