"""The pairs of sockets of a tap, and the names that they have in its reports."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from emu.errors import OptionError
from emu.tap.proxy import Pair
from vhost_user.one_line import printable

if TYPE_CHECKING:
    from collections.abc import Sequence


def pairs_of(
    listen: Sequence[str], connect: Sequence[str], both: Sequence[str], *, reverse: bool
) -> list[Pair]:
    """The pairs that the options give.

    Args:
        listen: values of ``--listen``.
        connect: values of ``--connect``, in the same order.
        both: values of ``--pair``, each ``LISTEN:CONNECT``.
        reverse: see `Pair`.

    Raises:
        OptionError: there is no pair, half of one, or a path that two of them have.
    """
    if len(listen) != len(connect):
        raise OptionError("each --listen needs a --connect: the other side's socket")
    paths = list(zip(listen, connect, strict=True))
    for text in both:
        first, colon, second = text.partition(":")
        if not colon or not first or not second or ":" in second:
            raise OptionError(
                f"--pair {text}: write LISTEN:CONNECT; if a path has a colon, use --listen and "
                "--connect"
            )
        paths.append((first, second))
    if not paths:
        raise OptionError("nothing to tap: use --listen PATH --connect PATH, or --pair PATH:PATH")
    _check_distinct(paths)
    names = names_of([first for first, _ in paths])
    return [
        Pair(name, first, second, reverse)
        for name, (first, second) in zip(names, paths, strict=True)
    ]


def _check_distinct(paths: Sequence[tuple[str, str]]) -> None:
    listens = [os.path.realpath(first) for first, _ in paths]
    for given, listen in zip(paths, listens, strict=True):
        if listens.count(listen) > 1:
            raise OptionError(f"the tap cannot listen at {given[0]} for two pairs")
        if listen in [os.path.realpath(second) for _, second in paths]:
            raise OptionError(f"the tap cannot connect to {given[0]}, where it listens itself")


def names_of(paths: Sequence[str]) -> list[str]:
    """Short names: the last parts of the paths, as many as make them differ, without ``.sock``.

    The suffix stays if a path is that of another one but for it. What does not print is escaped.
    """
    shown = [printable(path) for path in paths]
    short = [path.removesuffix(".sock") for path in shown]
    return _last_parts(short if len(set(short)) == len(set(shown)) else shown)


def _last_parts(paths: Sequence[str]) -> list[str]:
    split = [path.rstrip("/").split("/") for path in paths]
    names = []
    for number, parts in enumerate(split):
        others = split[:number] + split[number + 1 :]
        count = 1
        while count < len(parts) and any(parts[-count:] == other[-count:] for other in others):
            count += 1
        names.append("/".join(parts[-count:]))
    return names
