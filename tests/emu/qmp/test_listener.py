"""A monitor at a path: one client after the other, and an end that interrupts no command."""

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
    """Says commands and reads lines."""

    def __init__(self, path: Path) -> None:
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.settimeout(TIMEOUT)
        self._sock.connect(str(path))
        self._lines = self._sock.makefile("rb")

    def read(self) -> dict[str, Any]:
        """The next message; empty at the end."""
        message: dict[str, Any] = json.loads(self._lines.readline() or b"{}")
        return message

    def say(self, command: str) -> None:
        """Send a command."""
        self._sock.sendall(json.dumps({"execute": command}).encode() + b"\n")

    def close(self) -> None:
        """Hang up."""
        self._lines.close()
        self._sock.close()


def greeted(path: Path) -> Client:
    """One that has negotiated."""
    client = Client(path)
    assert "QMP" in client.read()
    client.say("qmp_capabilities")
    assert client.read() == {"return": {}}
    return client


def broken() -> None:
    """A handler with a bug."""
    raise KeyError("x")


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[MonitorListener]:
    """One that serves."""
    made = MonitorListener(tmp_path / "qmp", {"x-broken": broken})
    made.start()
    yield made
    made.close()
    assert not (tmp_path / "qmp").exists()


def is_over(listener: MonitorListener, timeout: float = TIMEOUT) -> bool:
    """Whether it says so in time."""
    return bool(select.select([listener.over_fd], [], [], timeout)[0])


def test_one_client_after_the_other(listener: MonitorListener, tmp_path: Path) -> None:
    """Each has a session of its own; events go to the one that is there."""
    listener.emit("NOBODY_HEARS", {})
    for name in ("ONE", "TWO"):
        client = greeted(tmp_path / "qmp")
        listener.emit(name, {"n": 1})
        assert client.read()["event"] == name
        client.close()
    assert not is_over(listener, 0)


def test_quit(listener: MonitorListener, tmp_path: Path) -> None:
    """Is answered, and then it is over."""
    client = greeted(tmp_path / "qmp")
    client.say("quit")
    assert client.read() == {"return": {}}
    assert is_over(listener)
    assert listener.failure is None
    client.close()


def test_a_bug_does_not_go_unnoticed(listener: MonitorListener, tmp_path: Path) -> None:
    """A caller that waits for the end gets the exception."""
    client = greeted(tmp_path / "qmp")
    client.say("x-broken")
    assert is_over(listener)
    assert isinstance(listener.failure, KeyError)
    client.close()


def test_a_client_that_came_early_is_served(tmp_path: Path) -> None:
    """It may know of the VM before that runs."""
    listener = MonitorListener(tmp_path / "qmp", {})
    client = Client(tmp_path / "qmp")
    listener.start()
    assert "QMP" in client.read()
    client.close()
    listener.close()


def test_close_waits_for_a_command_and_not_for_a_client(tmp_path: Path) -> None:
    """What has begun is carried out."""
    began, go_on, done = threading.Event(), threading.Event(), threading.Event()

    def slow() -> None:
        began.set()
        assert go_on.wait(TIMEOUT)
        done.set()

    listener = MonitorListener(tmp_path / "qmp", {"x-slow": slow})
    listener.start()
    client = greeted(tmp_path / "qmp")
    client.say("x-slow")
    assert began.wait(TIMEOUT)
    closing = threading.Thread(target=listener.close)
    closing.start()
    assert not done.is_set()
    go_on.set()
    closing.join(TIMEOUT)
    assert not closing.is_alive()
    assert done.is_set()
    client.close()


def test_a_socket_that_was_left_is_replaced_and_a_file_is_not(tmp_path: Path) -> None:
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
