"""The pairs that options give, and their names."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import pytest

from emu.errors import OptionError
from emu.tap.pairs import names_of, pairs_of
from emu.tap.proxy import Pair


def test_pairs_of_all_options() -> None:
    assert pairs_of(["/a/t.sock"], ["/b/t.sock"], ["/c:/d"], reverse=True) == [
        Pair("t", "/a/t.sock", "/b/t.sock", True),
        Pair("c", "/c", "/d", True),
    ]


@pytest.mark.parametrize(
    ("listen", "connect", "both", "text"),
    [
        ([], [], [], "nothing to tap"),
        (["a"], [], [], "each --listen needs a --connect"),
        ([], ["a"], [], "each --listen needs a --connect"),
        ([], [], ["a"], "--pair a: write LISTEN:CONNECT"),
        ([], [], ["a:"], "--pair a:: write LISTEN:CONNECT"),
        ([], [], ["a:b:c"], "if a path has a colon, use --listen and --connect"),
        (["a", "./a"], ["b", "c"], [], "cannot listen at a for two pairs"),
        (["a"], ["a"], [], "cannot connect to a, where it listens itself"),
    ],
)
def test_what_is_no_pair_is_refused(
    listen: list[str], connect: list[str], both: list[str], text: str
) -> None:
    with pytest.raises(OptionError, match=text):
        pairs_of(listen, connect, both, reverse=False)


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["/run/vm/blk0.sock"], ["blk0"]),
        (["/src/blk0.sock", "/dst/blk0.sock", "/dst/net0"], ["src/blk0", "dst/blk0", "net0"]),
        (["a.sock", "/x/a.sock"], ["a", "x/a"]),
        (["/t/a/x", "/u/a/x", "/u/b/x"], ["t/a/x", "u/a/x", "b/x"]),
        (["/a/x.sock", "/a/x"], ["x.sock", "x"]),
        (["/a/\x1b[2J \udcff.sock"], [r"\x1b[2J \udcff"]),
    ],
)
def test_names_are_as_short_as_they_can_be(paths: list[str], names: list[str]) -> None:
    assert names_of(paths) == names
