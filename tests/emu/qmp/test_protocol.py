"""The monitor's messages and lines."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.errors import MonitorError
from emu.qmp import protocol

if TYPE_CHECKING:
    from emu.qmp.protocol import JsonObject


def test_a_message_is_one_line() -> None:
    """Also when its strings contain newlines."""
    line = protocol.encode({"execute": "x", "arguments": {"text": "two\nlines"}})
    assert line.endswith(b"\r\n")
    assert line.count(b"\n") == 1
    assert protocol.parse(line.strip())["arguments"]["text"] == "two\nlines"


@pytest.mark.parametrize("value", [7, "a", None, {"a": [1]}])
def test_a_response_has_the_id_of_its_command(value: object) -> None:
    """Whatever JSON value it is, as QMP specifies; none if the command had none."""
    assert protocol.success(None) == {"return": {}}
    command = {"execute": "stop", "id": value}
    found = protocol.with_id(protocol.success({"a": 1}), command)
    assert found == {"return": {"a": 1}, "id": value}
    assert protocol.with_id(protocol.failure("A", "b"), {}) == {
        "error": {"class": "A", "desc": "b"}
    }


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"arguments": {}}, "lacks member 'execute'"),
        ({"execute": 1}, "'execute' must be a string"),
        ({"execute": "stop", "arguments": []}, "'arguments' must be an object"),
        ({"exec-oob": "stop"}, "'exec-oob' is unexpected"),
    ],
)
def test_what_is_not_a_command(message: dict[str, object], text: str) -> None:
    """Each member is checked, as QEMU does."""
    with pytest.raises(MonitorError, match=text):
        protocol.command_of(message)
    assert protocol.command_of({"execute": "stop", "id": 1}) == ("stop", {})


def test_an_event_has_the_time_in_two_parts() -> None:
    """Seconds, and microseconds within the second."""
    event = protocol.event("STOP")
    assert 0 <= event["timestamp"]["microseconds"] < 1_000_000
    assert event["timestamp"]["seconds"] > 1_600_000_000
    assert "data" not in event
    assert protocol.event("MIGRATION", {"status": "active"})["data"] == {"status": "active"}


@pytest.mark.parametrize("line", [b"{", b"[]", b"7", b"\xff\xfe", b'"text"'])
def test_a_message_that_is_not_an_object_is_an_error(line: bytes) -> None:
    """Valid JSON or not."""
    with pytest.raises(MonitorError):
        protocol.parse(line)


MESSAGES = st.lists(
    st.dictionaries(st.text(), st.integers() | st.text() | st.lists(st.text()), max_size=4),
    max_size=5,
)


@given(MESSAGES, st.sampled_from([b"", b"\n", b"\r\n", b"  "]), st.data())
def test_messages_are_found_however_the_stream_is_cut(
    messages: list[JsonObject], between: bytes, data: st.DataObject
) -> None:
    """With newlines between them or without, with brackets and quotes in strings or without."""
    stream = b"".join(
        json.dumps(message, ensure_ascii=False).encode() + between for message in messages
    )
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    buffer = protocol.MessageBuffer()
    found: list[bytes] = []
    for first, last in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += buffer.feed(stream[first:last])
    assert [json.loads(message) for message in found] == messages


def test_no_bytes_after_an_escaped_backslash() -> None:
    """The backslash does not escape what comes next."""
    buffer = protocol.MessageBuffer()
    pieces = [b'{"a": "' + b"\\\\", b"", b'"}']
    assert [message for piece in pieces for message in buffer.feed(piece)] == [b"".join(pieces)]


@given(st.binary(max_size=60), st.integers(1, 60))
def test_garbage_is_messages_that_parse_or_a_monitor_error(garbage: bytes, cut: int) -> None:
    """The messages are the same however the stream is cut."""
    whole = protocol.MessageBuffer().feed(garbage)
    buffer = protocol.MessageBuffer()
    pieces: list[bytes] = []
    for first in range(0, len(garbage), cut):
        pieces += buffer.feed(garbage[first : first + cut])
    assert pieces == whole
    for message in whole:
        try:
            assert isinstance(protocol.parse(message), dict)
        except MonitorError:
            continue


def test_a_message_that_is_too_long_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer cannot make the process use unbounded memory."""
    monkeypatch.setattr(protocol, "MAX_MESSAGE", 100)
    buffer = protocol.MessageBuffer()
    buffer.feed(b'{"' + b"x" * 90)
    with pytest.raises(MonitorError, match="longer than 100"):
        buffer.feed(b"x" * 20)


def test_a_cut_after_an_escaped_backslash() -> None:
    """An escaped backslash escapes nothing itself."""
    buffer = protocol.MessageBuffer()
    assert buffer.feed(b'{"a": "x\\\\') == []
    assert buffer.feed(b'"}') == [b'{"a": "x\\\\"}']
