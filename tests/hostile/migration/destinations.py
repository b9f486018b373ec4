"""Destinations that break the stream of a migration, which a running VM is sent to."""

from __future__ import annotations

import json
import random
import socket
import threading
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from emu.migration import clocks
from emu.migration.handshake import VERSION
from emu.migration.stream import HEADER, Kind
from tests.hostile import json_lies
from tests.hostile.cell import ANSWER, Cell, ClosedByPeer, NotOk
from tests.hostile.migration.incoming import ENDED, SILENCE, check_reason
from tests.hostile.migration.sections import ENTRY, Section

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.hostile.vm.attached import Attached

    Answer = Callable[[socket.socket, bytes], None]

_GROUP = "migration destinations"
_DEADLINE = 1.0
_WELCOME = {"version": VERSION, "clock": clocks.identity()}
_COMPLETION: dict[str, Any] = {
    "spans": [["dst.load_state", "dst", "", None, "", 1, 2, 0, True]],
    "marks": {"running_ns": 1},
    "commits": 1,
    "guest_gap_ns": 1,
}
_MOST = 64 << 20
#: The right answers of a destination, after the source's section of that kind.
_RIGHT: dict[Kind, tuple[Kind, bytes]] = {
    Kind.HELLO: (Kind.WELCOME, json.dumps(_WELCOME).encode()),
    Kind.DEVICES: (Kind.PREPARED, b""),
    Kind.SWITCHOVER: (Kind.READY, b""),
    Kind.GO: (Kind.RUNNING, b""),
}
#: Where an answer may be wrong: each of these, and the completion report that follows RUNNING.
_PLACES = (*_RIGHT, Kind.COMPLETION)


def cells() -> Iterator[Cell]:
    """All cells of this group."""
    yield _cell("stream", "without a mistake", _right)
    for place in _PLACES:
        name = "COMPLETION" if place is Kind.COMPLETION else _RIGHT[place][0].name
        for what, make in _bytes(place):
            yield _cell(name, what, partial(_tried, place, partial(_sends, make)))
        yield _cell(name, "closed instead", partial(_tried, place, _closes))
        yield _cell(name, "half closed instead", partial(_tried, place, _half_closes))
        yield _cell(name, "nothing", partial(_tried, place, _stalls))
        yield _cell(name, "a byte now and then", partial(_tried, place, _drips))
        yield _cell(name, "cancelled meanwhile", partial(_tried, place, _stalls, cancel=True))
    yield _cell("stream", "reads nothing", _reads_nothing)
    yield _cell("stream", "reads slowly", _reads_slowly)
    yield _cell("connection", "closed at once", _closed_at_once)
    yield _cell("connection", "not accepted", _not_accepted)
    for pongs in (0, 1, clocks.PROBES - 1, clocks.PROBES):
        yield _cell("clocks", f"{pongs} PONGs", partial(_clocks, pongs, 1))
    for ns in (0, 1 << 62, (1 << 64) - 1, 1 << 63):
        yield _cell("clocks", f"a time of {ns:#x}", partial(_clocks, clocks.PROBES, ns))


def _cell(place: str, name: str, attack: Callable[[Attached], None]) -> Cell:
    return Cell(_GROUP, place, name, "attach", attack)


def _bytes(place: Kind) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """What is sent in place of the right answer; large ones are made when they are sent."""
    if place is Kind.COMPLETION:
        kind, payload = Kind.COMPLETION, json.dumps(_COMPLETION).encode()
    else:
        kind, payload = _RIGHT[place]
    right = Section(kind, 0, payload)
    for name, data in _small(right):
        yield name, partial(bytes, data)
    yield "a payload of 64 MiB", partial(_filled, kind, b"\0")
    yield "FAILED of 64 MiB", partial(_filled, Kind.FAILED, b"x")
    document = {Kind.HELLO: _WELCOME, Kind.COMPLETION: _COMPLETION}.get(place)
    if place is Kind.DEVICES:
        document = {"start_ns": 1, "history": {}}
    for name, make in json_lies.TEXTS.items() if document is not None else ():
        yield f"JSON, {name}", partial(_section, kind, make)
    for member, name, changed in json_lies.changed(document or {}):
        yield f"{member}: {name}", partial(_section, kind, partial(_json, changed))


def _section(kind: Kind, make: Callable[[], bytes]) -> bytes:
    return Section(kind, 0, make()).raw()


def _json(document: object) -> bytes:
    return json.dumps(document).encode()


def _filled(kind: Kind, byte: bytes) -> bytes:
    return Section(kind, 0, byte * _MOST).raw()


def _small(right: Section) -> Iterator[tuple[str, bytes]]:
    kind = right.kind
    for number in (0, *Kind, 255, (1 << 32) - 1):
        if number not in (kind, Kind.FAILED):
            text = Kind(number).name if number in list(Kind) else str(number)
            yield f"kind {text}", right.raw(kind=number)
    for more in (1, -1, 64, 1 << 20, 1 << 31, 1 << 62, 1 << 63):
        yield f"length {more:+#x}", right.raw(more=more)
    for count in (1, (1 << 32) - 1):
        yield f"count {count}", right.raw(count=count)
    yield "half a header", right.raw()[: HEADER.size // 2]
    yield "twice", right.raw() * 2
    yield "1000 times", right.raw() * 1000
    yield "noise", random.Random(8).randbytes(1 << 16)
    yield "zeroes", bytes(1 << 16)
    yield "text", b"HTTP/1.1 400 Bad Request\r\n\r\n"
    yield "a TLS alert", bytes.fromhex("15030300020228") + bytes(16)
    yield "memory", Section(Kind.RAM, 1, bytes(ENTRY)).raw()
    for name, reason in {
        "": b"",
        "a reason": b"the disk is on fire",
        "of lines": b"one\ntwo\r\nthree",
        "of escapes": b"\x1b[2J\x1b]0;title\x07\x9b",
        "of zeroes": bytes(1000),
        "that is not UTF-8": b"\xff\xfe" * 100,
        "of half a MiB": b"x" * (1 << 19),
        "of surrogates": "\ud800".encode(errors="surrogatepass"),
        "of other directions": "\u202e\u2066".encode(),
    }.items():
        yield f"FAILED {name}".rstrip(), Section(Kind.FAILED, 0, reason).raw()


class _Destination:
    """Accepts one source, and answers it rightly up to a place.

    Args:
        on: the VM.
        wrong: where the answer is another one.
        answer: sends it, and does what follows.
    """

    def __init__(self, on: Attached, wrong: Kind | None, answer: Answer) -> None:
        self._wrong, self._answer = wrong, answer
        path = str(on.folder / f"destination-{time.monotonic_ns()}")
        self.uri = f"unix:{path}"
        self._listener = socket.socket(socket.AF_UNIX)
        on.owned.callback(self._listener.close)
        self._listener.bind(path)
        self._listener.listen()
        self._listener.settimeout(ANSWER)
        self.reached = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        on.owned.callback(self._thread.join, ANSWER)
        self._thread.start()

    def _serve(self) -> None:
        with suppress(OSError, ClosedByPeer):
            sock, _ = self._listener.accept()
            sock.settimeout(SILENCE)
            with sock:
                while (kind := _next(sock)) is not None:
                    if self._reply(sock, kind):
                        return

    def _reply(self, sock: socket.socket, kind: Kind) -> bool:
        """Answer a section; true at the end of the conversation."""
        if kind is self._wrong:
            self.reached.set()
            self._answer(sock, b"")
            return True
        if kind not in _RIGHT:
            return False
        sock.sendall(Section(_RIGHT[kind][0], 0, _RIGHT[kind][1]).raw())
        if kind is Kind.GO:
            self.reached.set()
            if self._wrong is Kind.COMPLETION:
                self._answer(sock, b"")
            else:
                sock.sendall(Section(Kind.COMPLETION, 0, json.dumps(_COMPLETION).encode()).raw())
            _drain(sock)
            return True
        return False


def _next(sock: socket.socket) -> Kind | None:
    """Read a section, and its memory; its kind, or None at the end."""
    header = _read(sock, HEADER.size)
    if header is None:
        return None
    kind, _, length = HEADER.unpack(header)
    payload = _read(sock, length) or b""
    if kind == Kind.RAM:
        sizes = (payload[n + 8 : n + ENTRY] for n in range(0, length, ENTRY))
        _read(sock, sum(int.from_bytes(size, "little") for size in sizes))
    return Kind(kind)


def _read(sock: socket.socket, size: int) -> bytes | None:
    data = bytearray()
    while len(data) < size:
        part = sock.recv(min(1 << 20, size - len(data)))
        if not part:
            return None
        data += part
    return bytes(data)


def _drain(sock: socket.socket) -> None:
    with suppress(OSError):
        while sock.recv(1 << 20):
            pass


def _sends(make: Callable[[], bytes], sock: socket.socket, _: bytes) -> None:
    with suppress(OSError):
        sock.sendall(make())
        sock.shutdown(socket.SHUT_WR)
    _drain(sock)


def _closes(_sock: socket.socket, _: bytes) -> None:
    """The caller closes the connection."""


def _half_closes(sock: socket.socket, _: bytes) -> None:
    sock.shutdown(socket.SHUT_WR)
    _drain(sock)


def _stalls(sock: socket.socket, _: bytes) -> None:
    _drain(sock)


def _drips(sock: socket.socket, _: bytes) -> None:
    with suppress(OSError):
        for byte in Section(Kind.FAILED, 0, b"x" * 4).raw():
            sock.sendall(bytes([byte]))
            time.sleep(_DEADLINE / 10)
    _drain(sock)


def _migrate(on: Attached, uri: str) -> Any:
    client = on.client()
    client.ask("qmp_capabilities")
    client.ask("migrate-set-parameters", **{"x-deadline": _DEADLINE})
    answer = client.ask("migrate", uri=uri)
    if "error" in answer:
        raise NotOk(f"migrate: {answer['error']['desc']}")
    return client


def _tried(place: Kind, answer: Answer, on: Attached, *, cancel: bool = False) -> None:
    there = _Destination(on, place, answer)
    client = _migrate(on, there.uri)
    if cancel:
        if not there.reached.wait(ANSWER):
            raise NotOk("the source has not come so far")
        client.ask("migrate_cancel")
    ended = client.migration_end(ENDED, SILENCE)
    if not there.reached.is_set():
        raise NotOk(f"the source has not come so far: {ended}")
    check_reason(ended)


def _right(on: Attached) -> None:
    there = _Destination(on, None, _closes)
    ended = _migrate(on, there.uri).migration_end(ENDED, SILENCE)
    if ended["status"] != "completed":
        raise NotOk(f"the migration has {ended}")


def _listening(on: Attached) -> tuple[socket.socket, str]:
    listener = socket.socket(socket.AF_UNIX)
    on.owned.callback(listener.close)
    path = str(on.folder / f"destination-{time.monotonic_ns()}")
    listener.bind(path)
    listener.listen()
    listener.settimeout(ANSWER)
    return listener, f"unix:{path}"


def _accepted(on: Attached) -> tuple[socket.socket, Any]:
    listener, uri = _listening(on)
    client = _migrate(on, uri)
    sock, _ = listener.accept()
    on.owned.callback(sock.close)
    sock.settimeout(ANSWER)
    return sock, client


def _failed(client: Any) -> None:
    ended = client.migration_end(ENDED, SILENCE)
    if ended["status"] != "failed":
        raise NotOk(f"the migration has {ended}")
    check_reason(ended)


def _reads_nothing(on: Attached) -> None:
    """WELCOME and PREPARED are there already, so that the source sends memory."""
    sock, client = _accepted(on)
    for kind in (Kind.HELLO, Kind.DEVICES):
        sock.sendall(Section(_RIGHT[kind][0], 0, _RIGHT[kind][1]).raw())
    _failed(client)


def _reads_slowly(on: Attached) -> None:
    sock, client = _accepted(on)
    with suppress(OSError):
        for _ in range(20):
            sock.recv(1)
            time.sleep(_DEADLINE / 20)
    sock.close()
    _failed(client)


def _closed_at_once(on: Attached) -> None:
    sock, client = _accepted(on)
    sock.close()
    _failed(client)


def _not_accepted(on: Attached) -> None:
    _, uri = _listening(on)
    _failed(_migrate(on, uri))


def _clocks(pongs: int, ns: int, on: Attached) -> None:
    """A destination with another clock, which the source asks for the time."""
    sock, client = _accepted(on)
    welcome = json.dumps({**_WELCOME, "clock": "another"}).encode()
    sock.sendall(Section(Kind.WELCOME, 0, welcome).raw())
    pong = Section(Kind.PONG, 0, ns.to_bytes(8, "little")).raw()
    with suppress(OSError):
        sock.sendall(pong * pongs)
        sock.shutdown(socket.SHUT_WR)
    _drain(sock)
    _failed(client)
