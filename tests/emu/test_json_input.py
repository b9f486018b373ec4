"""JSON of other programs: whatever it is, it has the shape that is asked for, or one error."""
# ruff: noqa: D103 - the name of a test is its documentation

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.json_input import (
    INTEGERS,
    Each,
    JsonInputError,
    Map,
    Maybe,
    Members,
    Real,
    Row,
    Whole,
    check,
    parse,
    read,
)

#: Any value that a JSON text may have, those of Python's dialect included.
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 70), 1 << 70)
    | st.floats()
    | st.text(st.characters(), max_size=5),
    lambda part: (
        st.lists(part, max_size=4) | st.dictionaries(st.text(max_size=3), part, max_size=4)
    ),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "it is not JSON: Expecting value"),
        ("NaN", "NaN is not a number of JSON"),
        ("[-Infinity]", "-Infinity is not a number of JSON"),
        ('{"a": 1e400}', "1e400 is too large a number"),
        (str(1 << 64), "more than 64 bits"),
        (str(-(1 << 63) - 1), "more than 64 bits"),
        ("9" * 10000, "more than 64 bits: 99999999999999999999$"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        (r'"\ud800"', "is not text"),
        (r'{"\udfff": 1}', "is not text"),
        (b"\xff", "can't decode|utf-8"),
    ],
)
def test_what_no_value_can_hold_is_refused(text: str | bytes, error: str) -> None:
    with pytest.raises(JsonInputError, match=error):
        parse(text)


@given(VALUES)
def test_any_value_is_read_or_refused(value: Any) -> None:
    try:
        found = parse(json.dumps(value))
    except JsonInputError:
        return
    assert found == value
    assert json.loads(json.dumps(found, allow_nan=False)) == value


@given(st.binary() | st.text())
def test_any_input_is_read_or_refused(data: bytes | str) -> None:
    try:
        parse(data)
    except JsonInputError:
        return


@pytest.mark.parametrize(
    ("value", "shape", "error"),
    [
        (True, int, "the value is not a whole number"),
        (1.0, int, "the value is not a whole number"),
        (True, float, "the value is not a number"),
        (1, str, "the value is not text"),
        (0, bool, "the value is not true or false"),
        (8, Whole(1, 7), "the value is 8, not 1 to 7"),
        (-1, Whole(), "the value is -1, not 0 to 18446744073709551615"),
        (1.5, Real(0, 1), "the value is 1.5, not 0 to 1"),
        ({"a": [1, "x"]}, Map(Each(int)), r"a\[1\] is not a whole number"),
        ({"a": {}}, Members({"a": Members({"b": int})}), "a.b is missing"),
        ({"a": 1}, Members({}, {"a": Maybe(str)}), "a is not text"),
        ([1], Row(int, int), "the value is not a list of 2"),
        ({}, Each(int), "the value is not a list"),
        ([], Map(int), "the value is not an object"),
        ([], Members({}), "the value is not an object"),
        ({"a": {"b": 1}}, Members({"a": Members({}, closed=True)}), "a.b is unknown"),
    ],
)
def test_another_shape_is_an_error_that_names_the_place(
    value: object, shape: Any, error: str
) -> None:
    with pytest.raises(JsonInputError, match=f"^{error}$"):
        check(value, shape)


def test_the_shape_names_what_is_returned() -> None:
    shape = Members({"a": float, "b": Row(Maybe(str), object)}, {"c": int})
    assert read('{"a": 1, "b": [null, {"x": 1}], "d": 2}', shape) == {
        "a": 1.0,
        "b": [None, {"x": 1}],
    }
    assert isinstance(read('{"a": 1, "b": ["", 0]}', shape)["a"], float)


def test_names_of_files_keep_their_bytes() -> None:
    name = b"caf\xe9".decode(errors="surrogateescape")
    assert parse(json.dumps(name)) == name


@given(st.integers())
def test_integers_have_64_bits(value: int) -> None:
    if value in INTEGERS:
        assert read(str(value), int) == value
    else:
        with pytest.raises(JsonInputError):
            read(str(value), int)
