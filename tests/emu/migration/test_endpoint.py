"""Addresses of a migration stream, and the listener at one."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
from functools import partial
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.errors import MigrationError
from emu.migration import endpoint
from emu.migration.endpoint import Listener, connect, has_host_name, is_local, parse, probe
from emu.migration.stream import Kind, MigrationStream
from tests.emu.migration.resolver import late_resolver
from tests.timeouts import TIMEOUT
from tests.waiting import open_fds

if TYPE_CHECKING:
    from collections.abc import Iterator
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
    before = open_fds()
    listener = Listener(f"unix:{tmp_path / 's'}")
    accepted: list[MigrationStream | None] = []
    thread = threading.Thread(target=lambda: accepted.append(listener.accept(timeout=TIMEOUT)))
    thread.start()
    listener.cancel()
    thread.join(TIMEOUT)
    assert accepted == [None]
    listener.close()
    assert open_fds() <= before


@pytest.mark.parametrize("uri", ["", "unix:", "tcp:1", "tcp:127.0.0.1:999999", "rdma:x", "tcp::5x"])
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
    if transport == "tcp":
        host, _, port = listener.uri.removeprefix("tcp:").rpartition(":")
        with socket.create_connection((host, int(port)), timeout=TIMEOUT) as other:
            # Its close resets the connection.
            other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
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


@pytest.mark.parametrize(
    ("uri", "text"),
    [
        ("tcp:127.0.0.1:99999", "port 99999 is not below 65536"),
        ("tcp:127.0.0.1:²", "write unix:PATH or tcp:ADDRESS:PORT"),
        ("tcp:127.0.0.1:٣", "write unix:PATH or tcp:ADDRESS:PORT"),
        ("tcp:" + "a" * 64 + ":1", "label .*too long"),
        ("tcp:a..b:1", "label empty"),
        ("tcp:.:1", "tcp:.:1"),
        ("tcp:x\0y:1", "write unix:PATH"),
        ("tcp:x y:1", "write unix:PATH"),
        ("tcp:[::1:1", "write unix:PATH"),
        ("unix:a\0b", "write unix:PATH"),
        ("unix:\ud800", "write unix:PATH"),
        ("unix:/" + "x" * 107, "a path of more than 107 bytes"),
    ],
)
def test_an_address_that_cannot_be_one_is_one_line(uri: str, text: str) -> None:
    """For whatever it is used."""
    for use in (Listener, partial(connect, timeout=0.1), partial(probe, timeout=0.1), is_local):
        with pytest.raises(MigrationError, match=text) as caught:
            use(uri)
        assert "\n" not in str(caught.value)


@given(
    st.text(max_size=30)
    | st.builds("tcp:{}:{}".format, st.text(max_size=70), st.text(max_size=6))
    | st.builds("tcp:[{}]:{}".format, st.text(max_size=20), st.integers(-1, 70000))
    | st.builds("unix:{}".format, st.text(max_size=120))
)
def test_any_text_is_an_address_or_one_error(uri: str) -> None:
    """What is accepted can be given to a socket: its errors are OSErrors only."""
    try:
        family, address = parse(uri)
    except MigrationError:
        return
    if isinstance(address, str):
        assert 0 < len(os.fsencode(address)) <= 107
        return
    host, port = address
    assert host.isascii()
    with contextlib.suppress(OSError), socket.socket(family) as sock:
        sock.bind(("127.0.0.1" if family == socket.AF_INET else "::1", port))
    with contextlib.suppress(OSError):
        socket.getaddrinfo(host, port, family=family, flags=socket.AI_NUMERICHOST)


@pytest.fixture
def silent_resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Names are resolved, to loopback, only after the event."""
    answered = late_resolver(monkeypatch, "127.0.0.1")
    yield answered
    answered.set()


def test_a_name_that_is_not_resolved_in_time_is_an_error(
    silent_resolver: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In each function that resolves names; the address that arrives later is not used."""
    monkeypatch.setattr(endpoint, "RESOLVE_TIMEOUT", 0.05)
    uri = "tcp:host.invalid:4444"
    late = "tcp:host.invalid:4444: the host's name was not resolved within 0.05 s"
    for ask in (
        partial(connect, uri, timeout=0.05),
        partial(probe, uri, timeout=0.05),
        partial(is_local, uri, 0.05),
        partial(Listener, uri),
    ):
        with pytest.raises(MigrationError, match=late):
            ask()
    silent_resolver.set()
    assert is_local(uri)


def test_a_name_is_connected_to(silent_resolver: threading.Event) -> None:
    """By the address that was looked at."""
    silent_resolver.set()
    listener = Listener("tcp:host.invalid:0")
    port = listener.uri.rpartition(":")[2]
    connect(f"tcp:host.invalid:{port}", timeout=TIMEOUT, loopback_only=True).close()
    listener.close()


def test_another_host_is_not_connected_to() -> None:
    """If that was not permitted."""
    with pytest.raises(MigrationError, match=r"tcp:192\.0\.2\.1:1 is not loopback"):
        connect("tcp:192.0.2.1:1", timeout=0.1, loopback_only=True)


@pytest.mark.parametrize(
    ("uri", "named"),
    [
        ("unix:a", False),
        ("tcp:127.0.0.1:1", False),
        ("tcp:[::1]:1", False),
        ("tcp:localhost:1", True),
    ],
)
def test_a_name_is_told_from_an_address(uri: str, *, named: bool) -> None:
    """Without asking for it."""
    assert has_host_name(uri) is named
