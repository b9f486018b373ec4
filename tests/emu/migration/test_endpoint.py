"""Addresses of a stream, and who listens at them."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import psutil
import pytest

from emu.errors import MigrationError
from emu.migration.endpoint import Listener, connect
from emu.migration.stream import Kind, MigrationStream
from tests.timeouts import TIMEOUT

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("transport", ["unix", "tcp"])
def test_connects(transport: str, tmp_path: Path) -> None:
    """By a unix socket, or by TCP on a port that was free."""
    listener = Listener("tcp:127.0.0.1:0" if transport == "tcp" else f"unix:{tmp_path / 's'}")
    assert not listener.uri.endswith(":0")
    accepted: list[MigrationStream | None] = []
    thread = threading.Thread(target=lambda: accepted.append(listener.accept(deadline=TIMEOUT)))
    thread.start()
    source = connect(listener.uri, deadline=TIMEOUT)
    thread.join(5)
    assert accepted[0] is not None
    source.send(Kind.HELLO, b"x")
    assert accepted[0].receive() == (Kind.HELLO, 0, b"x")
    for end in (source, accepted[0], listener):
        end.close()
    listener.close()
    assert not (tmp_path / "s").exists()


def test_cancel_ends_the_wait(tmp_path: Path) -> None:
    """A destination that nobody comes to can be told so."""
    before = psutil.Process().num_fds()
    listener = Listener(f"unix:{tmp_path / 's'}")
    accepted: list[MigrationStream | None] = []
    thread = threading.Thread(target=lambda: accepted.append(listener.accept(deadline=TIMEOUT)))
    thread.start()
    listener.cancel()
    thread.join(5)
    assert accepted == [None]
    listener.close()
    assert psutil.Process().num_fds() == before


@pytest.mark.parametrize("uri", ["", "unix:", "tcp:1", "tcp:127.0.0.1:99999", "rdma:x", "tcp::5x"])
def test_no_address(uri: str) -> None:
    """The text says what one looks like."""
    with pytest.raises(MigrationError, match="write unix:PATH or tcp:ADDRESS:PORT"):
        Listener(uri)
    with pytest.raises(MigrationError, match="write unix:PATH or tcp:ADDRESS:PORT"):
        connect(uri, deadline=0.1)


def test_in_use_and_nobody_there(tmp_path: Path) -> None:
    """One line each, with the address."""
    uri = f"unix:{tmp_path / 's'}"
    with pytest.raises(MigrationError, match="No such file"):
        connect(uri, deadline=0.1)
    listener = Listener(uri)
    with pytest.raises(MigrationError, match="in use"):
        Listener(uri)
    assert (tmp_path / "s").exists(), "the second one must not take the first one's name away"
    listener.close()
