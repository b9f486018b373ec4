"""A stream is divided into messages by their headers, in whatever pieces it comes."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.tap.framing import MAX_PAYLOAD, Framer, RawMessage


def message(number: int, payload: bytes, flags: int = 1) -> bytes:
    return struct.pack("=III", number, flags, len(payload)) + payload


@given(
    st.lists(st.tuples(st.integers(0, 99), st.binary(max_size=40)), max_size=6),
    st.lists(st.integers(1, 30), min_size=1),
)
def test_messages_in_pieces_of_any_size(
    messages: list[tuple[int, bytes]], sizes: list[int]
) -> None:
    stream = b"".join(message(number, payload) for number, payload in messages)
    framer = Framer()
    found: list[RawMessage] = []
    at, turn = 0, 0
    while at < len(stream):
        size = sizes[turn % len(sizes)]
        found += framer.feed(stream[at : at + size], 0, turn)
        at, turn = at + size, turn + 1
    assert [(each.id, each.payload) for each in found] == messages
    assert framer.between_messages


def test_descriptors_belong_to_the_message_of_their_byte() -> None:
    framer = Framer()
    first, second = message(1, b"abcd"), message(2, b"")
    assert framer.feed(first[:3], 2, 1) == []
    assert framer.feed(first[3:], 0, 2) == [RawMessage(2, 1, 1, b"abcd", 2)]
    assert framer.feed(second + first, 1, 3) == [
        RawMessage(3, 2, 1, b"", 1),
        RawMessage(3, 1, 1, b"abcd", 0),
    ]


@pytest.mark.parametrize(
    ("header", "why"),
    [
        ((1, 0, 0), "no header: request 1, flags 0x0, 0 bytes"),
        ((1, 2, 0), "no header: request 1, flags 0x2, 0 bytes"),
        (
            (1, 1, MAX_PAYLOAD + 1),
            f"no header: request 1, flags 0x1, {MAX_PAYLOAD + 1} bytes",
        ),
    ],
)
def test_what_is_no_header_ends_the_reading(header: tuple[int, int, int], why: str) -> None:
    """The messages before it are returned, and nothing after it."""
    framer = Framer()
    found = framer.feed(message(7, b"x") + struct.pack("=III", *header) + message(8, b""), 0, 0)
    assert [each.id for each in found] == [7]
    assert framer.lost == why
    assert framer.feed(message(9, b""), 1, 0) == []
    assert not framer.between_messages


def test_an_unknown_message_of_any_size_is_divided() -> None:
    framer = Framer()
    stream = message(4000, bytes(MAX_PAYLOAD)) + message(1, b"")
    assert [each.id for each in framer.feed(stream, 0, 0)] == [4000, 1]


@given(
    st.lists(st.tuples(st.integers(0, 99), st.binary(max_size=40)), max_size=6),
    st.integers(0, 60),
    st.integers(0, 60),
)
def test_sizes_end_where_messages_end(
    messages: list[tuple[int, bytes]], before: int, after: int
) -> None:
    """In any part of a stream."""
    stream = b"".join(message(number, payload) for number, payload in messages)
    framer = Framer()
    framer.feed(stream[:before], 0, 0)
    part = stream[before : before + after]
    ends, at = set(), 0
    for _, payload in messages:
        at += 12 + len(payload)
        ends.add(at)
    inside = {end - before for end in ends if before < end <= before + len(part)}
    found, at = set(), 0
    for size in framer.split(part):
        at += size
        found.add(at)
    assert at == len(part)
    assert found == inside | ({len(part)} if part else set())


def test_what_is_no_message_is_split_into_bytes() -> None:
    framer = Framer()
    framer.feed(bytes(12), 0, 0)
    assert list(framer.split(b"abc")) == [1, 1, 1]
