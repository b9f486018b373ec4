"""A monitor at a path: several clients, and a close that ends no command early."""

from __future__ import annotations

import errno
import json
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

from emu.errors import PreflightError
from emu.qmp.listener import MonitorListener
from tests.timeouts import TIMEOUT
from vhost_user.readiness import readable

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

    def drain(self) -> int:
        """Read to the end; returns the number of bytes."""
        return len(self._lines.read())

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
    return bool(readable([listener.over_fd], timeout))


def test_one_client_after_the_other(listener: MonitorListener, tmp_path: Path) -> None:
    """Each has its own session; events go to the one that is connected."""
    listener.emit("WITHOUT_CLIENT", {})
    for name in ("ONE", "TWO"):
        client = negotiated(tmp_path / "qmp")
        listener.emit(name, {"n": 1})
        assert client.read()["event"] == name
        client.close()
    assert not is_over(listener, 0)


def test_several_clients_at_once(listener: MonitorListener, tmp_path: Path) -> None:
    """Each negotiates for itself, and all that have get the events."""
    one, two, silent = negotiated(tmp_path / "qmp"), negotiated(tmp_path / "qmp"), None
    silent = Client(tmp_path / "qmp")
    assert "QMP" in silent.read()
    listener.emit("STOP", {})
    assert [client.read()["event"] for client in (one, two)] == ["STOP", "STOP"]
    silent.send("qmp_capabilities")
    assert silent.read() == {"return": {}}
    one.send("query-version")
    assert "qemu" in one.read()["return"]
    two.send("quit")
    assert two.read() == {"return": {}}
    for client in (one, two, silent):
        assert client.read()["data"] == {"guest": False, "reason": "host-qmp-quit"}
        client.close()


def test_a_client_that_does_not_read_delays_no_other(
    listener: MonitorListener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is disconnected once too many events wait for it."""
    monkeypatch.setattr("emu.qmp.outbox.MAX_QUEUED", 1 << 20)
    lazy, other = negotiated(tmp_path / "qmp"), negotiated(tmp_path / "qmp")
    text = "x" * 100_000
    for number in range(30):
        listener.emit("STOP", {"text": text, "n": number})
        assert other.read()["data"]["n"] == number
    assert lazy.drain() < 30 * 100_000
    other.send("query-version")
    assert "return" in other.read()
    lazy.close()
    other.close()


def test_more_clients_than_the_limit_are_disconnected(
    listener: MonitorListener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others stay."""
    monkeypatch.setattr("emu.qmp.listener.MAX_CLIENTS", 2)
    kept = [negotiated(tmp_path / "qmp") for _ in range(2)]
    refused = Client(tmp_path / "qmp")
    assert refused.read() == {}
    for client in (*kept, refused):
        client.close()


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


class Slow:
    """A command that lasts until the test lets it end."""

    def __init__(self) -> None:
        self.calls = 0
        self.began, self.go_on = threading.Event(), threading.Event()

    def __call__(self) -> None:
        """Execute it."""
        self.calls += 1
        self.began.set()
        assert self.go_on.wait(TIMEOUT)


def test_close_does_not_execute_what_waits(tmp_path: Path) -> None:
    """Neither of the client whose command is being executed nor of another one."""
    slow = Slow()
    listener = MonitorListener(tmp_path / "qmp", {"x-slow": slow})
    listener.start()
    one, two = negotiated(tmp_path / "qmp"), negotiated(tmp_path / "qmp")
    one.send("x-slow")
    assert slow.began.wait(TIMEOUT)
    one.send("x-slow")
    two.send("x-slow")
    assert not listener.close(0.0)
    slow.go_on.set()
    for thread in threading.enumerate():
        if thread.name == "monitor-client":
            thread.join(TIMEOUT)
            assert not thread.is_alive()
    assert slow.calls == 1
    one.close()
    two.close()


def test_a_client_waits_while_there_are_no_descriptors(
    listener: MonitorListener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is served as soon as there are some; the others are served meanwhile."""
    kept = negotiated(tmp_path / "qmp")
    failed = threading.Event()

    def fail() -> None:
        failed.set()
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as short:
        short.setattr(listener._listener, "accept", fail)
        waiting = Client(tmp_path / "qmp")
        assert failed.wait(TIMEOUT)
        kept.send("query-version")
        assert "return" in kept.read()
    assert "QMP" in waiting.read()
    kept.close()
    waiting.close()
