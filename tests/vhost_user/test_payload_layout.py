"""How a payload's class registers its layout."""
# ruff: noqa: D103 - the names say what they do

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, cast

import pytest

from vhost_user.payload_layout import (
    SHAPES,
    PayloadError,
    layout_of,
    pack_fields,
    payload,
    unpack_fields,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


class Pair(NamedTuple):
    """A payload of two fields."""

    first: int
    second: int


KIND = cast("Any", Pair)


@pytest.fixture(autouse=True)
def _registered_for_one_test() -> Iterator[None]:
    yield
    SHAPES.pop(KIND, None)


def test_a_layout_of_a_fixed_size() -> None:
    assert payload("=IH2x")(KIND) is Pair
    assert SHAPES[KIND] == (8, 8, ("first", "second"), layout_of(KIND), True)
    assert pack_fields(KIND(1, 2)) == b"\1\0\0\0\2\0\0\0"
    assert unpack_fields(KIND, b"\1\0\0\0\2\0\0\0") == (1, 2)


@pytest.mark.parametrize("size", [0, 7, 9])
def test_other_sizes_than_that_of_the_layout(size: int) -> None:
    payload("=IH2x")(KIND)
    with pytest.raises(PayloadError, match=f"Pair has 8 bytes, not {size}"):
        unpack_fields(KIND, bytes(size))


def test_a_range_of_sizes() -> None:
    payload(sizes=(4, 12))(KIND)
    assert SHAPES[KIND] == (4, 12, ("first", "second"), None, False)


def test_neither_a_layout_nor_sizes() -> None:
    with pytest.raises(TypeError, match="Pair: give a layout or sizes"):
        payload()(KIND)
    assert KIND not in SHAPES
