"""The client, against the real server and against peers that violate the protocol."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING

import pytest

from emu.errors import CommandError, HangUpError, MonitorError
from emu.orchestrator.signals import SignalWatcher
from emu.qmp import protocol
from emu.qmp.client import MonitorClient
from emu.qmp.server import MonitorServer
from tests.timeouts import TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def watcher() -> Iterator[SignalWatcher]:
    """The object that waits for the client's responses."""
    with SignalWatcher() as watch:
        yield watch


def refuse() -> None:
    """A handler that fails."""
    raise OSError(28, "No space left on device")


def test_it_controls_a_server(watcher: SignalWatcher) -> None:
    """Responses may be read in any order; events are kept meanwhile."""
    ours, theirs = socket.socketpair()
    server = MonitorServer(theirs, {"x-one": lambda: {"n": 1}, "x-refuse": refuse})
    thread = threading.Thread(target=server.serve)
    thread.start()
    client = MonitorClient(ours, "VM A", watcher)
    client.negotiate(5)
    first, second = client.submit("x-one"), client.submit("x-one")
    assert client.result(second, timeout=TIMEOUT) == {"n": 1}
    server.emit("STOP", {"a": 1})
    assert client.result(first, timeout=TIMEOUT) == {"n": 1}
    with pytest.raises(CommandError, match=r"VM A: .*No space left on device"):
        client.execute("x-refuse", timeout=TIMEOUT)
    assert [event.name for event in client.events] == ["STOP"]
    client.close()
    thread.join(TIMEOUT)
    assert not thread.is_alive()
    server.close()


def test_a_peer_that_sends_nothing_is_an_error_after_the_timeout(watcher: SignalWatcher) -> None:
    """The error has the time that was waited."""
    ours, theirs = socket.socketpair()
    client = MonitorClient(ours, "VM A", watcher)
    with pytest.raises(MonitorError, match=r"VM A: waited 0\.05 s for its greeting"):
        client.negotiate(0.05)
    theirs.close()
    client.close()


def test_a_peer_that_disconnects_is_named(watcher: SignalWatcher) -> None:
    """By the VM's name in the run."""
    ours, theirs = socket.socketpair()
    client = MonitorClient(ours, "VM B", watcher)
    request = client.submit("x-one")
    theirs.close()
    with pytest.raises(HangUpError, match="VM B"):
        client.result(request, timeout=TIMEOUT)
    client.close()


def test_a_message_that_is_not_a_response_is_an_error(watcher: SignalWatcher) -> None:
    """A response without an id belongs to no command."""
    ours, theirs = socket.socketpair()
    client = MonitorClient(ours, "VM B", watcher)
    theirs.sendall(protocol.encode({"return": {}}))
    with pytest.raises(MonitorError, match="not a response to any command"):
        client.execute("x-one", timeout=TIMEOUT)
    theirs.close()
    client.close()
