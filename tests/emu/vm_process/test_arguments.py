"""Arguments that are objects."""
# ruff: noqa: D103 - the names describe them

from __future__ import annotations

from typing import Any

import pytest

from emu.errors import EmuError
from emu.vm_process import arguments


@pytest.mark.parametrize(
    ("shape", "value", "text"),
    [
        (arguments.OPTIONS, {"threads": "4"}, "options.threads is not a whole number"),
        (arguments.BETWEEN, {"stats": {}}, "options.stats is not a list"),
        (arguments.DISK, {"path": "d", "size": 1}, "options.writable is missing"),
        (arguments.DISK, {"path": "d", "size": -1, "writable": True}, "options.size is -1"),
        (arguments.DISK, [], "options is not an object"),
    ],
)
def test_another_shape_is_an_error_that_names_the_member(shape: Any, value: Any, text: str) -> None:
    with pytest.raises(EmuError, match=f"^Invalid parameter: {text}"):
        arguments.checked(value, shape, "options")


def test_a_member_that_the_shape_does_not_name_is_dropped() -> None:
    value = {"threads": 4, "unknown": None}
    assert arguments.checked(value, arguments.OPTIONS, "options") == {"threads": 4}


def test_images_are_by_the_numbers_of_their_disks() -> None:
    assert arguments.images_by_number({"0": "a", "11": "b"}) == {0: "a", 11: "b"}


@pytest.mark.parametrize("number", ["", "-1", "1.0", "\u00b2", "12345", "x"])
def test_a_name_that_is_no_number_is_an_error(number: str) -> None:
    with pytest.raises(EmuError, match="is not the number of a disk"):
        arguments.images_by_number({number: "a"})


def test_a_path_that_is_no_text_is_an_error() -> None:
    with pytest.raises(EmuError, match=r"images\.0 is not text"):
        arguments.images_by_number({"0": 7})
