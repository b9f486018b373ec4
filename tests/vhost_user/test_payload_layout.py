"""How a payload class registers its layout."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

from typing import NamedTuple

import pytest

from vhost_user.payload_layout import (
    SHAPES,
    PayloadError,
    layout_of,
    pack_fields,
    payload,
    unpack_fields,
)
from vhost_user.payloads import U64, MemTable, VringState


def test_a_layout_of_a_fixed_size_is_registered_with_the_fields() -> None:
    shape = SHAPES[VringState]
    assert (shape.smallest, shape.largest, shape.fields, shape.plain) == (
        8,
        8,
        ("ring", "num"),
        True,
    )
    assert layout_of(VringState).size == 8


def test_a_payload_of_several_sizes_has_no_layout() -> None:
    shape = SHAPES[MemTable]
    assert shape.smallest < shape.largest
    assert (shape.layout, shape.plain) == (None, False)


def test_a_class_without_a_layout_and_sizes_is_an_error() -> None:
    class Empty(NamedTuple):
        """A payload that says nothing of its bytes."""

        value: int

    with pytest.raises(TypeError, match="Empty needs a layout or sizes"):
        payload()(Empty)  # type: ignore[type-var]
    assert "Empty" not in {kind.__name__ for kind in SHAPES}


@pytest.mark.parametrize("size", [0, 7, 9])
def test_bytes_of_another_size_are_refused(size: int) -> None:
    assert unpack_fields(U64, pack_fields(U64(5))) == (5,)
    with pytest.raises(PayloadError, match=f"U64 has 8 bytes, not {size}"):
        unpack_fields(U64, bytes(size))
