"""JSON that a peer may send in place of the right one."""

from __future__ import annotations

import json
from copy import deepcopy
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: Texts that are no JSON, or more of it than anybody can want, by name.
_SMALL: dict[str, bytes] = {
    "empty": b"",
    "a zero byte": b"\0",
    "zeroes": bytes(4096),
    "0xff": b"\xff" * 4096,
    "text": b"GET / HTTP/1.1\r\n\r\n",
    "null": b"null",
    "true": b"true",
    "a number": b"1",
    "a string": b'"x"',
    "an array": b"[]",
    "an empty object": b"{}",
    "half an object": b'{"version": ',
    "half a string": b'{"vers',
    "two objects": b"{}{}",
    "a number of 5000 digits": b'{"version": ' + b"9" * 5000 + b"}",
    "a fraction of 5000 digits": b'{"version": 0.' + b"9" * 5000 + b"}",
    "1e999": b'{"version": 1e999}',
    "-1e999": b'{"version": -1e999}',
    "Infinity": b'{"version": Infinity}',
    "NaN": b'{"version": NaN}',
    "lone surrogate": b'{"version": "\\ud800"}',
    "not UTF-8": b'{"version": "\xff\xfe"}',
    "UTF-16": '{"version": 4}'.encode("utf-16"),
    "byte order mark": b"\xef\xbb\xbf{}",
    "the same key twice": b'{"version": 4, "version": 4}',
}
#: The same; each is made when it is sent, as all of them together are large.
_LARGE: dict[str, Callable[[], bytes]] = {
    "nested arrays": lambda: b"[" * 100_000 + b"]" * 100_000,
    "nested arrays, open": lambda: b"[" * 1_000_000,
    "nested objects": lambda: b'{"version":' * 100_000 + b"1" + b"}" * 100_000,
    "a number of a million digits": lambda: b'{"version": ' + b"9" * 1_000_000 + b"}",
    "a million members": lambda: b"{" + b",".join(b'"%d":0' % n for n in range(1_000_000)) + b"}",
    "a million nulls": lambda: b"[" + b"null," * 1_000_000 + b"null]",
    "32 MiB of spaces": lambda: b" " * (32 << 20) + b"{}",
    "32 MiB of a key": lambda: b'{"' + b"a" * (32 << 20) + b'": 1}',
    "32 MiB of a string": lambda: b'{"version": "' + b"a" * (32 << 20) + b'"}',
}
TEXTS: dict[str, Callable[[], bytes]] = {
    **{name: partial(bytes, text) for name, text in _SMALL.items()},
    **_LARGE,
}

#: Values in place of the right one.
VALUES: tuple[object, ...] = (
    None,
    True,
    False,
    -1,
    0,
    1.5,
    1 << 31,
    (1 << 63) - 1,
    1 << 64,
    -(1 << 200),
    1e308,
    "",
    "x" * 100_000,
    "\x1b[2J\r\nemu: completed\x07",
    "../../etc/passwd",
    [],
    [[]],
    {},
    {"": None},
)


def changed(document: Any) -> Iterator[tuple[str, str, Any]]:
    """A document with one member changed: its place, the name of the change, the new document.

    Each member is left out and has each of `VALUES`; each object has one member more.
    """
    for path in _paths(document):
        place = ".".join(map(str, path))
        for value in VALUES:
            text = json.dumps(value)
            name = text if len(text) < 40 else f"{len(text)} characters"
            yield place, name, _with(document, path, value)
        if isinstance(_at(document, path[:-1]), dict):
            yield place, "left out", _without(document, path)
        yield place, "one member more", _with(document, (*path[:-1], "another"), 1)


def _paths(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The paths of all members; of a list, of its first item only."""
    if path:
        yield path
    if isinstance(value, dict):
        for name, member in value.items():
            yield from _paths(member, (*path, name))
    elif isinstance(value, list) and value:
        yield from _paths(value[0], (*path, 0))


def _at(document: Any, path: tuple[str | int, ...]) -> Any:
    for step in path:
        document = document[step]
    return document


def _with(document: Any, path: tuple[str | int, ...], value: object) -> Any:
    copy = deepcopy(document)
    container = _at(copy, path[:-1])
    if isinstance(container, list) and path[-1] == "another":
        container.append(value)
    else:
        container[path[-1]] = value
    return copy


def _without(document: Any, path: tuple[str | int, ...]) -> Any:
    copy = deepcopy(document)
    del _at(copy, path[:-1])[path[-1]]
    return copy
