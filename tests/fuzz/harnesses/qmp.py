"""The QMP server, given any bytes.

Invariant: whatever a QMP client sends in whatever pieces, the server answers each message with
one JSON object that is a `return` or an `error`, and executes no command with wrong arguments.
"""

from __future__ import annotations

import json
import socket
import threading
from typing import TYPE_CHECKING

from emu.errors import MonitorError
from emu.qmp import protocol
from emu.qmp.server import MonitorServer
from tests.fuzz.reader import Reader

if TYPE_CHECKING:
    from collections.abc import Callable

    from emu.qmp.protocol import JsonObject


def _measure(calc_time: int) -> None:
    assert type(calc_time) is int


def _set(name: str, on: bool, rate: float = 1.0, more: JsonObject | None = None) -> None:
    assert isinstance(name, str)
    assert isinstance(on, bool)
    assert isinstance(rate, int | float)
    assert more is None or isinstance(more, dict)


_COMMANDS: dict[str, Callable[..., object]] = {
    "stop": lambda: None,
    "calc-dirty-rate": _measure,
    "set": _set,
}
_CAPABILITIES = b'{"execute": "qmp_capabilities"}'


def one_input(data: bytes) -> None:
    """Lengths of pieces (1 byte each, before the bytes); a second pass is one real connection."""
    reader = Reader(data)
    buffer = protocol.MessageBuffer()
    messages = []
    while reader.left:
        try:
            messages += buffer.feed(reader.take(reader.number(1) + 1))
        except MonitorError:
            return
    theirs, ours = socket.socketpair()
    server = MonitorServer(ours, _COMMANDS, alone=False)
    theirs.setblocking(False)
    answers: list[bytes] = []
    for message in (_CAPABILITIES, *messages[:50]):
        if not server._handle(message):
            break
        answers += _lines(theirs)
    answers += _lines(theirs)
    for answer in answers:
        parsed = json.loads(answer)
        assert len(parsed.keys() & {"return", "error"}) == 1
    theirs.close()
    ours.close()
    assert threading.active_count() < 50


def _lines(sock: socket.socket) -> list[bytes]:
    try:
        return sock.recv(1 << 20).splitlines()
    except BlockingIOError:
        return []
