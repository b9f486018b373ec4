"""How messages stand in transcripts."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.vhost_user.payload_strategies import PAYLOADS
from vhost_user.codec import NEED_REPLY, REPLY, VERSION
from vhost_user.messages import BACKEND_MESSAGES, FRONTEND_MESSAGES, BackendRequest, FrontendRequest
from vhost_user.payloads import Config, MemoryRegion, MemTable
from vhost_user_conformance.peer.message_text import message_text, payload_text

F = FrontendRequest
NAMES = {member.value: member.name for member in FrontendRequest}
CHANNEL = {member.value: member.name for member in BackendRequest}


def u64(value: int) -> bytes:
    """Eight bytes."""
    return value.to_bytes(8, "little")


@pytest.mark.parametrize(
    ("number", "flags", "payload", "fds", "text"),
    [
        (F.GET_FEATURES, VERSION, b"", 0, "GET_FEATURES"),
        (F.GET_FEATURES, VERSION | REPLY, u64(1 << 32), 0, "GET_FEATURES reply 0x100000000"),
        (F.SET_FEATURES, VERSION | NEED_REPLY, u64(0), 0, "SET_FEATURES need_reply 0x0"),
        (F.SET_FEATURES, VERSION | REPLY, u64(0), 0, "SET_FEATURES reply 0x0"),
        (F.SET_PROTOCOL_FEATURES, VERSION, u64(9), 0, "SET_PROTOCOL_FEATURES 0x9 MQ|REPLY_ACK"),
        (F.GET_QUEUE_NUM, VERSION | REPLY, u64(4), 0, "GET_QUEUE_NUM reply 4"),
        (F.SET_VRING_NUM, VERSION, u64(64 << 32 | 1), 0, "SET_VRING_NUM ring 1, num 64"),
        (F.SET_VRING_KICK, VERSION, u64(2), 1, "SET_VRING_KICK ring 2 (1 descriptor)"),
        (F.SET_VRING_CALL, VERSION, u64(0x103), 0, "SET_VRING_CALL ring 3, no descriptor"),
        (F.GET_VRING_BASE, 0x5 | 0x8, u64(0), 0, "GET_VRING_BASE reply need_reply ring 0, num 0"),
        (F.SET_VRING_NUM, VERSION, b"\1\2", 0, "SET_VRING_NUM 2 bytes 0102"),
        (F.GET_FEATURES, 0x11, b"", 0, "GET_FEATURES flags 0x11"),
        (9999, VERSION, b"\1", 2, "id 9999 1 bytes 01 (2 descriptors)"),
    ],
)
def test_the_line(number: int, flags: int, payload: bytes, fds: int, text: str) -> None:
    """Name, flags that are out of the ordinary, fields, descriptors."""
    assert message_text(number, flags, payload, fds, NAMES) == text


def test_memory_and_configuration() -> None:
    """Fields within fields, and bytes."""
    region = MemoryRegion(0x100000, 0x400000, 0x7F0000000000, 0)
    assert payload_text("SET_MEM_TABLE", MemTable((region,)).pack()) == (
        "regions [gpa 0x100000, size 0x400000, user_addr 0x7f0000000000, mmap_offset 0]"
    )
    assert payload_text("GET_CONFIG", Config(8, 0, b"\1\2\3\4\5").pack()) == (
        "offset 8, flags 0, data (5 bytes) 01020304 05"
    )


MESSAGES = {
    (table, spec.name, reply): forms
    for table, messages in (("front-end", FRONTEND_MESSAGES), ("channel", BACKEND_MESSAGES))
    for spec in messages.values()
    for reply, forms in ((False, spec.payload), (True, spec.reply_payload))
    if any(forms)
}


@pytest.mark.parametrize("message", MESSAGES, ids=str)
@settings(max_examples=30)
@given(data=st.data())
def test_each_form_of_each_message_is_decoded(
    message: tuple[str, str, bool], data: st.DataObject
) -> None:
    """By the names of its fields, and not as bytes."""
    _, name, reply = message
    form = data.draw(st.sampled_from([form for form in MESSAGES[message] if form is not None]))
    payload = data.draw(PAYLOADS[form])
    text = payload_text(name, payload.pack(), reply=reply)
    assert not text.startswith(f"{len(payload.pack())} bytes ")
    assert "\n" not in text


@settings(deadline=None)
@given(st.sampled_from(sorted({*NAMES.values(), *CHANNEL.values()})), st.binary(max_size=64))
def test_any_bytes_have_a_text(name: str, payload: bytes) -> None:
    """Whatever a peer sends."""
    for reply in (False, True):
        assert "\n" not in payload_text(name, payload, reply=reply)


@pytest.mark.parametrize("names", [NAMES, CHANNEL], ids=["front-end", "channel"])
def test_a_payload_that_is_cut_is_shown_as_bytes(names: dict[int, str]) -> None:
    """One byte less than a U64 is no U64."""
    for number, name in names.items():
        line = message_text(number, VERSION, b"\xab" * 7, 0, names)
        assert line.startswith(name)
        assert "7 bytes ababab" in line
