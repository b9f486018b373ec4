"""Addresses of a migration stream, and the listener at one."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING

import psutil
import pytest

from emu.errors import MigrationError
from emu.migration.endpoint import Listener, connect, probe
from emu.migration.stream import Kind, MigrationStream
from tests.timeouts import TIMEOUT

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("transport", ["unix", "tcp"])
def test_a_source_connects(transport: str, tmp_path: Path) -> None:
    """Over a unix socket, or over TCP on a free port."""
    listener = Listener("tcp:127.0.0.1:0" if transport == "tcp" else f"unix:{tmp_path / 's'}")
    assert not listener.uri.endswith(":0")
    accepted: list[MigrationStream | None] = []
    thread = threading.Thread(target=lambda: accepted.append(listener.accept(timeout=TIMEOUT)))
    thread.start()
    source = connect(listener.uri, timeout=TIMEOUT)
    source.send(Kind.HELLO, b"x")
    thread.join(TIMEOUT)
    assert accepted[0] is not None
    assert accepted[0].receive() == (Kind.HELLO, 0, b"x")
    for end in (source, accepted[0], listener):
        end.close()
    listener.close()
    assert not (tmp_path / "s").exists()


def test_cancel_ends_accept(tmp_path: Path) -> None:
    """No descriptor is left."""
    before = psutil.Process().num_fds()
    listener = Listener(f"unix:{tmp_path / 's'}")
    accepted: list[MigrationStream | None] = []
    thread = threading.Thread(target=lambda: accepted.append(listener.accept(timeout=TIMEOUT)))
    thread.start()
    listener.cancel()
    thread.join(TIMEOUT)
    assert accepted == [None]
    listener.close()
    assert psutil.Process().num_fds() == before


@pytest.mark.parametrize("uri", ["", "unix:", "tcp:1", "tcp:127.0.0.1:99999", "rdma:x", "tcp::5x"])
def test_an_invalid_address_is_refused(uri: str) -> None:
    """The text shows the valid forms."""
    with pytest.raises(MigrationError, match="write unix:PATH or tcp:ADDRESS:PORT"):
        Listener(uri)
    with pytest.raises(MigrationError, match="write unix:PATH or tcp:ADDRESS:PORT"):
        connect(uri, timeout=0.1)


def test_an_address_in_use_and_one_without_a_listener(tmp_path: Path) -> None:
    """The error is one line with the address."""
    uri = f"unix:{tmp_path / 's'}"
    with pytest.raises(MigrationError, match="No such file"):
        connect(uri, timeout=0.1)
    listener = Listener(uri)
    with pytest.raises(MigrationError, match="in use"):
        Listener(uri)
    assert (tmp_path / "s").exists(), "the second one must not remove the first one's path"
    listener.close()


@pytest.mark.parametrize("transport", ["unix", "tcp"])
def test_a_probe_is_not_accepted_as_the_source(transport: str, tmp_path: Path) -> None:
    """A connection that is closed before anything was sent on it does not count."""
    listener = Listener("tcp:127.0.0.1:0" if transport == "tcp" else f"unix:{tmp_path / 's'}")
    accepted: list[MigrationStream | None] = []
    thread = threading.Thread(target=lambda: accepted.append(listener.accept(timeout=TIMEOUT)))
    thread.start()
    for _ in range(3):
        probe(listener.uri, timeout=TIMEOUT)
    source = connect(listener.uri, timeout=TIMEOUT)
    source.send(Kind.HELLO, b"x")
    thread.join(TIMEOUT)
    assert accepted[0] is not None
    assert accepted[0].receive() == (Kind.HELLO, 0, b"x")
    assert not listener.cancel()
    for end in (source, accepted[0], listener):
        end.close()


def test_a_wait_for_a_silent_connection_can_be_cancelled(tmp_path: Path) -> None:
    """A connection on which no byte was sent is not a source."""
    listener = Listener(f"unix:{tmp_path / 's'}")
    accepted: list[MigrationStream | None] = []
    thread = threading.Thread(target=lambda: accepted.append(listener.accept(timeout=TIMEOUT)))
    thread.start()
    source = connect(listener.uri, timeout=TIMEOUT)
    assert listener.cancel()
    thread.join(TIMEOUT)
    assert accepted == [None]
    source.close()
    listener.close()


def test_a_stale_path_is_replaced_and_a_file_is_not(tmp_path: Path) -> None:
    """A killed run leaves a socket on which no process listens."""
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    listener = Listener(f"unix:{path}")
    probe(listener.uri, timeout=TIMEOUT)
    listener.close()
    path.write_text("a file")
    with pytest.raises(MigrationError, match="listen: unix:"):
        Listener(f"unix:{path}")
    assert path.read_text() == "a file"
