"""Sources that break TLS, and sources with the wrong certificate."""

from __future__ import annotations

import random
import socket
import ssl
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from tests.emu.migration.certificates import Authority
from tests.hostile.cell import ANSWER, Cell
from tests.hostile.migration.incoming import SILENCE, Incoming

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from emu.migration.tls import Credentials

_GROUP = "migration sources, TLS"
_HELLO = bytes.fromhex("160301006c010000680303") + bytes(32)
_RAW: dict[str, bytes] = {
    "closed": b"x",
    "text": b"GET / HTTP/1.1\r\n\r\n",
    "zeroes": bytes(1 << 16),
    "0xff": b"\xff" * (1 << 16),
    "noise": random.Random(4).randbytes(1 << 16),
    "a record of 0 bytes": bytes.fromhex("1603010000"),
    "a record of 65535 bytes": bytes.fromhex("160301ffff") + bytes(65535),
    "10000 empty records": bytes.fromhex("1603010000") * 10_000,
    "half a client hello": _HELLO[:20],
    "a client hello of zeroes": _HELLO + bytes(75),
    "SSL 2": bytes.fromhex("802e0100020015000000100100800200800300800400800500800600400700c0"),
    "SSL 3": bytes.fromhex("1603000033") + bytes(51),
    "an alert": bytes.fromhex("15030300020228"),
    "10000 alerts": bytes.fromhex("15030300020100") * 10_000,
    "application data": bytes.fromhex("1703030010") + bytes(16),
    "heartbeat": bytes.fromhex("180303000301ffff"),
}


def cells() -> Iterator[Cell]:
    """All cells of this group."""
    for name, data in _RAW.items():
        yield _cell("no handshake", name, partial(_raw, data))
    yield _cell("no handshake", "the stream in the clear", _plain)
    yield _cell("no handshake", "nothing", partial(_silent, b""))
    yield _cell("no handshake", "stalls in the client hello", partial(_silent, _HELLO[:20]))
    for name, make in {
        "none": None,
        "another authority": lambda on, _: Authority(on.folder, "other").credentials("source"),
        "expired": lambda _, own: own.credentials("source", expired=True),
    }.items():
        yield _cell("certificate", name, partial(_certified, make))
    yield _cell("version", "1.2", partial(_certified, _right, most=ssl.TLSVersion.TLSv1_2))
    for name, sent in {
        "nothing, closed": b"",
        "text": b"GET / HTTP/1.1\r\n\r\n",
        "noise": random.Random(5).randbytes(1 << 16),
        "a HELLO of 2^63 bytes": bytes([1, 0, 0, 0, 0, 0, 0, 0]) + (1 << 63).to_bytes(8, "little"),
    }.items():
        yield _cell("after the handshake", name, partial(_encrypted, sent, b""))
    for name, broken in {
        "a record in the clear": b"GET / HTTP/1.1\r\n\r\n",
        "half a record": bytes.fromhex("1703030100") + bytes(16),
        "a record of noise": bytes.fromhex("1703030100") + random.Random(6).randbytes(256),
        "an alert in the clear": bytes.fromhex("15030300020228"),
        "zeroes": bytes(4096),
    }.items():
        yield _cell("after the handshake", name, partial(_encrypted, b"", broken))
    yield _cell("after the handshake", "the stream without a mistake", _succeeds)
    yield _cell("after the handshake", "the stream, cut in its middle", _cut)
    yield _cell("after the handshake", "stalls", _stalls)


def _cell(place: str, name: str, attack: Callable[[Incoming], None]) -> Cell:
    return Cell(_GROUP, place, name, "incoming", attack)


def _right(_on: Incoming, authority: Authority) -> Credentials:
    return authority.credentials("source")


def _listen(on: Incoming) -> Authority:
    authority = Authority(on.folder)
    on.credentials = authority.credentials("destination")
    on.listen()
    return authority


def _raw(data: bytes, on: Incoming) -> None:
    _listen(on)
    sock = on.play(data, close=False)
    with suppress(OSError):
        sock.shutdown(socket.SHUT_WR)
    on.outcome("failed")


def _plain(on: Incoming) -> None:
    _listen(on)
    on.play(*(section.raw() for section in Incoming.recorded), close=False)
    on.outcome("failed")


def _silent(data: bytes, on: Incoming) -> None:
    _listen(on)
    on.play(data, close=False)
    on.outcome("failed", timeout=SILENCE)


def _client(on: Incoming, authority: Authority, credentials: Credentials | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(str(authority.pem))
    if credentials is not None:
        context.load_cert_chain(credentials.cert, credentials.key)
    return context


def _certified(
    make: Callable[[Incoming, Authority], Credentials] | None,
    on: Incoming,
    *,
    most: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
) -> None:
    authority = _listen(on)
    context = _client(on, authority, None if make is None else make(on, authority))
    context.maximum_version = most
    # In TLS 1.3 a source learns that its certificate is refused when it reads next.
    with suppress(OSError), context.wrap_socket(on.connect(), server_hostname="127.0.0.1") as sock:
        sock.sendall(Incoming.recorded[0].raw())
        sock.recv(1)
    on.outcome("failed")


def _secured(on: Incoming) -> ssl.SSLSocket:
    authority = _listen(on)
    context = _client(on, authority, _right(on, authority))
    sock = context.wrap_socket(on.connect(), server_hostname="127.0.0.1")
    on.owned.callback(sock.close)
    sock.settimeout(ANSWER)
    return sock


def _encrypted(sent: bytes, broken: bytes, on: Incoming) -> None:
    """Bytes in the connection, and then bytes beside it."""
    sock = _secured(on)
    with suppress(OSError):
        sock.sendall(sent)
        socket.socket.send(sock, broken)
        socket.socket.shutdown(sock, socket.SHUT_WR)
    on.outcome("failed")


def _succeeds(on: Incoming) -> None:
    _secured(on).sendall(b"".join(section.raw() for section in Incoming.recorded))
    on.outcome("completed")


def _cut(on: Incoming) -> None:
    data = b"".join(section.raw() for section in Incoming.recorded)
    sock = _secured(on)
    sock.sendall(data[: len(data) // 2])
    socket.socket.shutdown(sock, socket.SHUT_RDWR)
    on.outcome("failed")


def _stalls(on: Incoming) -> None:
    sock = _secured(on)
    sock.sendall(Incoming.recorded[0].raw())
    on.outcome("failed", timeout=SILENCE)
