"""The other side of a migration, on the whole of `emu migrate --to` and `emu run --incoming`."""

from __future__ import annotations

import json
import random
import socket
import threading
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from emu.config.vm_spec import DeviceGroup, VmSpec
from emu.migration.handshake import required_match
from emu.migration.stream import Kind
from tests.hostile.cell import ANSWER, Cell, NotOk
from tests.hostile.migration.sections import Section
from tests.hostile.migration.sources import HELLO

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.hostile.commands.command import Commands

_SHAPE = ("--net", "1x2", "--blk", "0", "--vcpus", "1", "--memory", "64M", "--accel", "soft")
_SPEC = VmSpec(1, 64 << 20, (DeviceGroup("net", 1, 2),))
_MOST = 64 << 20
_TEXT = b"GET / HTTP/1.1\r\n\r\n"


def _hello(**members: object) -> bytes:
    hello = {**HELLO, "spec": required_match(_SPEC, "soft"), **members}
    return Section(Kind.HELLO, 0, json.dumps(hello).encode()).raw()


_SOURCES: dict[str, bytes] = {
    "text": _TEXT,
    "noise": random.Random(9).randbytes(1 << 16),
    "a TLS handshake": bytes.fromhex("16030100c8010000c40303") + bytes(196),
    "half a HELLO": _hello()[:100],
    "another VM": _hello(spec=required_match(VmSpec(), "soft")),
    "a name that clears the screen": _hello(strategy="\x1b[2J\n"),
    "infinite numbers": Section(Kind.HELLO, 0, b'{"version": 1e999}').raw(),
    "nested without end": Section(Kind.HELLO, 0, b"[" * (4 << 20)).raw(),
    "a HELLO of 2^62 bytes": Section(Kind.HELLO, 0, b"").raw(more=1 << 62),
    "HELLO, and no more": _hello(),
    "HELLO, then devices of noise": _hello() + Section(Kind.DEVICES, 0, bytes(range(256))).raw(),
    "HELLO, then GO": _hello() + Section(Kind.GO, 0, b"").raw(),
}
_DESTINATIONS: dict[str, bytes] = {
    "closes": b"",
    "text": _TEXT,
    "noise": random.Random(10).randbytes(1 << 16),
    "a TLS alert": bytes.fromhex("15030300020228"),
    "WELCOME of another version": Section(Kind.WELCOME, 0, b'{"version": 1}').raw(),
    "WELCOME with infinite numbers": Section(Kind.WELCOME, 0, b'{"version": 1e999}').raw(),
    "FAILED of many lines": Section(Kind.FAILED, 0, b"a\nb\n" * 1000).raw(),
    "FAILED that clears the screen": Section(Kind.FAILED, 0, b"\x1b[2J\x1b]0;x\x07").raw(),
    "FAILED of 64 MiB, cut": Section(Kind.FAILED, 0, b"x").raw(more=_MOST) + b"x" * (1 << 20),
    "GO": Section(Kind.GO, 0, b"").raw(),
}


def cells() -> Iterator[Cell]:
    """All cells of this group."""
    for name, data in _SOURCES.items():
        yield _cell("emu run --incoming", name, partial(_incoming, data))
    yield _cell("emu run --incoming", "a source that stalls, SIGTERM", _stalls)
    for name, data in _DESTINATIONS.items():
        yield _cell("emu migrate --to", name, partial(_to, data))
    yield _cell("emu migrate --to", "a destination that stalls", partial(_to, None))


def _cell(place: str, name: str, attack: Callable[[Commands], None]) -> Cell:
    return Cell("migration commands", place, name, "command", attack)


class _Waiting:
    """Connects to a destination once it prints where it waits."""

    def __init__(self, on: Commands, data: bytes, *, stalls: bool = False) -> None:
        self._on = on
        self._data = data
        self._stalls = stalls
        self.connected = False

    def __call__(self, log: Path) -> bool:
        if self.connected:
            return self._stalls
        for line in log.read_text().splitlines():
            if "waiting for a VM at " in line:
                self.connected = True
                sock = socket.socket(socket.AF_UNIX)
                self._on.owned.callback(sock.close)
                sock.settimeout(ANSWER)
                with suppress(OSError):
                    sock.connect(line.rpartition("unix:")[2])
                    sock.sendall(self._data)
                    if not self._stalls:
                        sock.shutdown(socket.SHUT_WR)
        return False


def _receive(on: Commands, waiting: _Waiting) -> int:
    uri = f"unix:{on.folder}/stream"
    argv = ("emu", "run", "--incoming", uri, *_SHAPE, "--for", "1s")
    ended = on.command(argv, stop=waiting)
    if not waiting.connected:
        raise NotOk(f"it has not waited for a source: {ended.lines[-1:]}")
    if left := [path.name for path in on.folder.iterdir()]:
        raise NotOk(f"left behind: {left}")
    return ended.status


def _incoming(data: bytes, on: Commands) -> None:
    if not _receive(on, _Waiting(on, data)):
        raise NotOk("it has succeeded")


def _stalls(on: Commands) -> None:
    _receive(on, _Waiting(on, _hello()[:20], stalls=True))


def _to(data: bytes | None, on: Commands) -> None:
    """Answer HELLO with these bytes; None for nothing."""
    path = f"{on.folder}/stream"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()

    def serve() -> None:
        with suppress(OSError):
            while True:
                sock, _ = listener.accept()
                on.owned.callback(sock.close)
                if sock.recv(1):  # not the connection that looks whether anybody listens
                    sock.sendall(data or b"")
                    if data is not None:
                        sock.shutdown(socket.SHUT_RDWR)

    threading.Thread(target=serve, daemon=True).start()
    try:
        argv = ("emu", "migrate", "--to", f"unix:{path}", *_SHAPE, "--deadline", "1s")
        ended = on.command(argv)
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
    if not ended.status:
        raise NotOk("it has succeeded")
    for line in ended.out.splitlines():
        if not line.isprintable():
            raise NotOk(f"a line does not print: {line[:200]!r}")
