"""Text of a peer or a user as one line."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import pytest

from vhost_user.one_line import one_line


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a line", "a line"),
        ("two\nlines\r\n", "two lines"),
        ("\x1b[2J\x07", "\\x1b[2J\\x07"),
        ("a \u202e b", "a \\u202e b"),
        ("a \udcff b", "a \\udcff b"),
        ("\0" * 3, "\\x00\\x00\\x00"),
        ("é", "é"),
        ("", ""),
    ],
)
def test_it_prints(text: str, line: str) -> None:
    assert one_line(text, 40) == line


@pytest.mark.parametrize("text", ["x" * 1000, "\x1b" * 1000, "x" * (64 << 20), "\n" * 1000])
def test_it_is_short(text: str) -> None:
    assert len(one_line(text, 100)) <= 100


def test_beginning_and_end_are_left() -> None:
    assert one_line("begin" + "x" * 1000 + "end", 30) == "beginxxxxxxxxxx ... xxxxxxxend"
