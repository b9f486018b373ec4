"""QMP clients that break the protocol."""

from __future__ import annotations

import json
import socket
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from tests.hostile.cell import Cell, ClosedByPeer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.hostile.vm.attached import Attached

_CAPABILITIES = b'{"execute": "qmp_capabilities"}'
_INPUTS: dict[str, bytes] = {
    "nothing": b"",
    "a newline": b"\n",
    "zeroes": bytes(4096),
    "0xff": b"\xff" * 4096,
    "text": b"GET / HTTP/1.1\r\n\r\n",
    "half an object": b'{"execute": "stop"',
    "half a string": b'{"execute": "sto',
    "a closing bracket": b"}}}}\n",
    "an array": b'["stop"]',
    "a number": b"1\n",
    "null": b"null\n",
    "two objects": b'{"execute": "query-status"}{"execute": "query-status"}',
    "nested 100000 times": b"[" * 100_000 + b"]" * 100_000,
    "nested objects": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    "a number of 5000 digits": b'{"execute": "query-status", "id": ' + b"9" * 5000 + b"}",
    "1e999": b'{"execute": "query-status", "id": 1e999}',
    "NaN": b'{"execute": "query-status", "id": NaN}',
    "lone surrogate": b'{"execute": "query-status", "id": "\\ud800"}',
    "not UTF-8": b'{"execute": "\xff\xfe"}',
    "UTF-16": '{"execute": "stop"}'.encode("utf-16"),
    "a zero byte": b'{"execute": "sto\0p"}',
    "the same key twice": b'{"execute": "stop", "execute": "query-status"}',
    "8 MiB of spaces": b" " * (8 << 20) + b"\n",
    "8 MiB of a string": b'{"execute": "' + b"a" * (8 << 20) + b'"}',
    "no execute": b'{"arguments": {}}',
    "execute is null": b'{"execute": null}',
    "execute is an object": b'{"execute": {}}',
    "arguments is an array": b'{"execute": "query-status", "arguments": []}',
    "an unknown command": b'{"execute": "x"}',
    "an internal name": b'{"execute": "__init__"}',
    "capabilities again": _CAPABILITIES,
    "1000 commands at once": b'{"execute": "query-status"}' * 1000,
}
_VALUES: tuple[object, ...] = (
    None,
    True,
    -1,
    0,
    1.5,
    2**63,
    2**64,
    -(2**200),
    1e308,
    "",
    "x" * 10_000,
    [],
    {},
    [[]],
)
#: Commands with arguments of their own, which neither end the VM nor migrate it.
_COMMANDS = {"calc-dirty-rate": "calc-time", "query-status": "x", "x-stats": "x", "stop": "x"}


def cells() -> Iterator[Cell]:
    """All cells of this group."""
    for name, data in _INPUTS.items():
        for negotiated in (False, True):
            place = "QMP after negotiation" if negotiated else "QMP before negotiation"
            yield Cell("QMP clients", place, name, "attach", partial(_sent, data, negotiated))
    for command, argument in _COMMANDS.items():
        for value in _VALUES:
            text = json.dumps(value)
            yield Cell(
                "QMP clients",
                f"{command}, {argument}",
                text if len(text) < 80 else f"{len(text)} characters",
                "attach",
                partial(_asked, command, argument, value),
            )
    for name, act in {
        "reads nothing": _reads_nothing,
        "50 connections": _connections,
        "half closed": _half_closed,
        "byte by byte": _bytewise,
    }.items():
        yield Cell("QMP clients", "QMP", name, "attach", act)


def _sent(data: bytes, negotiated: bool, on: Attached) -> None:
    client = on.client()
    if negotiated:
        client.ask("qmp_capabilities")
    client.send(data)
    if b"{" in data and data.count(b"{") == data.count(b"}"):
        with suppress(ClosedByPeer):
            client.line()


def _asked(command: str, argument: str, value: object, on: Attached) -> None:
    client = on.client()
    client.ask("qmp_capabilities")
    client.ask(command, **{argument: value})
    client.ask("cont")


def _reads_nothing(on: Attached) -> None:
    client = on.client()
    client.ask("qmp_capabilities")
    client.sock.settimeout(0.2)
    with suppress(TimeoutError, ClosedByPeer):
        for _ in range(500):
            client.send(b'{"execute": "query-commands"}' * 100)


def _connections(on: Attached) -> None:
    for _ in range(50):
        sock = socket.socket(socket.AF_UNIX)
        on.owned.callback(sock.close)
        sock.setblocking(False)
        with suppress(OSError):
            sock.connect(on.qmp)


def _half_closed(on: Attached) -> None:
    client = on.client()
    client.send(_CAPABILITIES + b'{"execute": "query-status"}')
    client.sock.shutdown(socket.SHUT_WR)


def _bytewise(on: Attached) -> None:
    client = on.client()
    for byte in _CAPABILITIES:
        client.send(bytes([byte]))
    client.line()
