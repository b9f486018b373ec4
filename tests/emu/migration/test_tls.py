"""TLS: both sides verify the other one, and report errors in one line."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from emu.errors import MigrationError
from emu.machine.ram import GuestRam
from emu.migration.endpoint import Listener, connect, is_local
from emu.migration.stream import SENDFILE_BYTES, Kind, MigrationStream
from tests.emu.migration.certificates import Authority
from tests.timeouts import TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emu.migration.tls import Credentials


class Pair:
    """Both ends of a connection, and the error of each, if there was one."""

    def __init__(self, source: Credentials | None, destination: Credentials | None) -> None:
        self._listener = Listener("tcp:127.0.0.1:0", destination)
        self.source: MigrationStream | None = None
        self.destination: MigrationStream | None = None
        self.source_error = self.destination_error = ""
        thread = threading.Thread(target=self._accept)
        thread.start()
        try:
            self.source = connect(self._listener.uri, timeout=TIMEOUT, credentials=source)
            self.source.send(Kind.HELLO, b"who")
            assert self.source.receive() == (Kind.WELCOME, 0, b"")
        except MigrationError as error:
            self.source_error = str(error)
        thread.join(3 * TIMEOUT)
        assert not thread.is_alive()

    def _accept(self) -> None:
        try:
            self.destination = self._listener.accept(timeout=TIMEOUT)
            assert self.destination is not None
            assert self.destination.receive() == (Kind.HELLO, 0, b"who")
            self.destination.send(Kind.WELCOME)
        except MigrationError as error:
            self.destination_error = str(error)
            if self.destination is not None:
                self.destination.send_failure(str(error))

    def close(self) -> None:
        """Close both ends and the listener."""
        for end in (self.source, self.destination, self._listener):
            if end is not None:
                end.close()


@pytest.fixture
def ca(tmp_path: Path) -> Authority:
    """The authority that both sides trust."""
    return Authority(tmp_path)


@pytest.fixture
def pairs() -> Iterator[list[Pair]]:
    """Pairs that are closed after the test."""
    made: list[Pair] = []
    yield made
    for pair in made:
        pair.close()


def test_sections_and_memory_arrive(ca: Authority, pairs: list[Pair]) -> None:
    """As over a plain socket, small and large ranges of memory."""
    pair = Pair(ca.credentials("a"), ca.credentials("b"))
    pairs.append(pair)
    source, destination = pair.source, pair.destination
    assert source is not None
    assert destination is not None
    assert source.encrypted
    ours, theirs = GuestRam(8 << 20), GuestRam(8 << 20)
    try:
        runs = [(0, 4096), (1 << 20, 3 * SENDFILE_BYTES), (6 << 20, 8192)]
        for gpa, length in runs:
            ours.view(gpa, length)[:] = bytes(n % 251 for n in range(length))
        sender = threading.Thread(target=source.send_ram, args=(ours, runs))
        sender.start()
        left = sum(length for _, length in runs)
        while left:
            _kind, count, table = destination.receive()
            left -= destination.receive_ram(theirs, count, table)
        sender.join(TIMEOUT)
        for gpa, length in runs:
            assert theirs.view(gpa, length) == ours.view(gpa, length)
    finally:
        ours.close()
        theirs.close()


def test_a_silent_peer_is_an_error(ca: Authority, pairs: list[Pair]) -> None:
    """The timeout holds with TLS as well."""
    pair = Pair(ca.credentials("a"), ca.credentials("b"))
    pairs.append(pair)
    assert pair.source is not None
    pair.source.set_timeout(0.1)
    with pytest.raises(MigrationError, match=r"silent for 0\.1 s"):
        pair.source.receive()


def test_interrupt_ends_a_receive(ca: Authority, pairs: list[Pair]) -> None:
    """From another thread, as a cancel does."""
    pair = Pair(ca.credentials("a"), ca.credentials("b"))
    pairs.append(pair)
    assert pair.source is not None
    timer = threading.Timer(0.1, pair.source.interrupt)
    timer.start()
    with pytest.raises(MigrationError):
        pair.source.receive()
    timer.join()


@pytest.mark.parametrize("side", ["source", "destination"])
@pytest.mark.parametrize(
    ("kind", "own", "other"),
    [
        ("expired", "it has expired", "certificate has expired"),
        ("untrusted", "its --tls-ca did not sign it", "issuer certificate"),
    ],
)
def test_a_bad_certificate_is_named_on_both_sides(
    ca: Authority, tmp_path: Path, pairs: list[Pair], side: str, kind: str, own: str, other: str
) -> None:
    """By its owner and by the side that verified it."""
    if kind == "expired":
        bad = ca.credentials("bad", expired=True)
    else:
        bad = Authority(tmp_path, "other").credentials("bad", trusts=ca)
    good = ca.credentials("good")
    pair = Pair(bad, good) if side == "source" else Pair(good, bad)
    pairs.append(pair)
    errors = (pair.source_error, pair.destination_error)
    mine, yours = errors if side == "source" else errors[::-1]
    assert f"refuses this side's certificate: {own}" in mine
    assert "the other side's certificate is refused" in yours
    assert other in yours


def test_the_destination_must_have_the_name_of_the_address(
    ca: Authority, pairs: list[Pair]
) -> None:
    """Or the name in --tls-hostname."""
    destination = ca.credentials("elsewhere", "elsewhere.example")
    source = ca.credentials("good")
    wrong = Pair(source, destination)
    right = Pair(source._replace(hostname="elsewhere.example"), destination)
    pairs += [wrong, right]
    assert "IP address mismatch" in wrong.source_error
    assert (right.source_error, right.destination_error) == ("", "")


def test_a_destination_without_tls(ca: Authority, pairs: list[Pair]) -> None:
    """Each side reports it in one line."""
    pair = Pair(ca.credentials("a"), None)
    pairs.append(pair)
    assert "does not use TLS" in pair.source_error
    assert "the other side uses TLS" in pair.destination_error


def test_a_source_without_tls(ca: Authority, pairs: list[Pair]) -> None:
    """The destination reports it, and accepts no connection."""
    pair = Pair(None, ca.credentials("a"))
    pairs.append(pair)
    assert "does not use TLS" in pair.destination_error
    assert pair.source_error


def test_files_that_cannot_be_used(ca: Authority, tmp_path: Path) -> None:
    """The error names the option."""
    good = ca.credentials("good")
    empty = tmp_path / "empty.pem"
    empty.touch()
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for bad, text in (
        (good._replace(cert=str(fifo)), f"--tls-cert {fifo}: is not a regular file"),
        (good._replace(cert="/none.crt"), "--tls-cert /none.crt: No such file"),
        (good._replace(ca=str(empty)), f"--tls-ca {empty} holds no certificate"),
        (good._replace(key=ca.credentials("b").key), "is not the key of --tls-cert"),
        (good._replace(key=str(empty)), "are not a PEM certificate and key"),
    ):
        with pytest.raises(MigrationError, match=text):
            bad.context(server=True)


def test_a_key_with_a_passphrase_is_refused(ca: Authority, tmp_path: Path) -> None:
    """Without a prompt, which would not be visible."""
    from cryptography.hazmat.primitives import serialization

    good = ca.credentials("good")
    key = serialization.load_pem_private_key(Path(good.key).read_bytes(), None)
    locked = tmp_path / "locked.key"
    locked.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(MigrationError, match="is encrypted"):
        good._replace(key=str(locked)).context(server=False)


@pytest.mark.parametrize(
    ("uri", "here"),
    [
        ("unix:/tmp/x", True),
        ("tcp:127.0.0.1:1", True),
        ("tcp:127.8.9.1:1", True),
        ("tcp:[::1]:1", True),
        ("tcp:0.0.0.0:1", False),
        ("tcp:192.0.2.1:1", False),
    ],
)
def test_only_loopback_and_unix_sockets_are_local(uri: str, here: bool) -> None:
    """Other addresses leave the host."""
    assert is_local(uri) is here
