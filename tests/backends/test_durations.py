"""Durations, as users write them."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.durations import DurationError, format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("20ms", 20_000_000),
        ("1.5s", 1_500_000_000),
        ("300us", 300_000),
        ("375us", 375_000),
        (".5s", 500_000_000),
        ("7ns", 7),
        ("0", 0),
        ("2m", 120_000_000_000),
        ("1.5m", 90_000_000_000),
        (" 3 ms ", 3_000_000),
    ],
)
def test_reads(text: str, nanoseconds: int) -> None:
    assert parse_duration(text) == nanoseconds


@pytest.mark.parametrize("text", ["", "20", "ms", "-1ms", "1min", "1e3ms", "1.2.3s", "1 h"])
def test_invalid_durations(text: str) -> None:
    with pytest.raises(DurationError, match="not a duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    "text", ["0", "7ns", "300us", "375us", "20ms", "1.5s", "30.5s", "0.5m", "1m", "1.5m", "120m"]
)
def test_what_is_read_is_written_in_the_same_form(text: str) -> None:
    assert format_duration(parse_duration(text)) == text


@given(st.integers(min_value=0, max_value=10**10))
def test_what_is_written_can_be_read(microseconds: int) -> None:
    nanoseconds = microseconds * 1000
    again = parse_duration(format_duration(nanoseconds))
    assert abs(again - nanoseconds) <= nanoseconds // 10**5
