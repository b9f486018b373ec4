"""The lines of the text log."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

from emu.tap.connection import Closed, Sender, Unreadable
from emu.tap.text_log import line_of
from tests.emu.tap.talk import F, Talk
from vhost_user.codec import NEED_REPLY, VERSION
from vhost_user.messages import BackendRequest
from vhost_user.payloads import U64, Config, MemoryRegion, MemTable

REGIONS = "regions:[{gpa:0x0 size:0x1000 user_addr:0x2000 mmap_offset:0x0}]"


def test_lines_of_a_conversation() -> None:
    talk = Talk()
    talk.ask(F.GET_FEATURES)
    talk.answer(F.GET_FEATURES, U64(1 << 30))
    talk.ask(F.SET_VRING_KICK, U64(3), fds=1)
    table = MemTable((MemoryRegion(0, 0x1000, 0x2000, 0),))
    talk.ask(F.SET_MEM_TABLE, table, fds=1, flags=VERSION | NEED_REPLY)
    talk.ask(F.GET_CONFIG, Config(0, 0, bytes(8)))
    talk.ask(F.SET_VRING_NUM, b"abc")
    talk.ask(BackendRequest.CONFIG_CHANGE_MSG, on_channel=True)
    talk.reader.take(Unreadable(talk.connection, Sender.BACK_END, False, 8000, "no header"))
    talk.close()
    for message in talk.messages:
        message.violations.clear()
    lines = [line_of(record) for record in talk.records]
    assert [line.removeprefix("0.00000") for line in lines] == [
        "0 (dev) connected",
        "1 (dev) -> VHOST_USER_GET_FEATURES req:1 flags:0x1 size:0",
        "2 (dev) <- VHOST_USER_GET_FEATURES req:1 flags:0x5 size:8 value:0x40000000 after 1 us",
        "3 (dev) -> VHOST_USER_SET_VRING_KICK req:12 flags:0x1 size:8 fds:1 ring:3 value:0x3",
        f"4 (dev) -> VHOST_USER_SET_MEM_TABLE req:5 flags:0x9 size:40 fds:1 {REGIONS}",
        "5 (dev) -> VHOST_USER_GET_CONFIG req:24 flags:0x1 size:20 offset:0x0 flags:0x0 data:00*8",
        "6 (dev) -> VHOST_USER_SET_VRING_NUM req:8 flags:0x1 size:3 (has no payload of 3 bytes)",
        "7 (dev) <- VHOST_USER_BACKEND_CONFIG_CHANGE_MSG req:2 flags:0x1 size:0",
        "8 (dev) back-end: no longer decoded: no header",
        "7 (dev) disconnected: by the front-end",
    ]


def test_a_reason_is_that_of_the_tap() -> None:
    closed = Closed(Talk().connection, 1, "the tap has ended", Sender.FRONT_END)
    assert line_of(closed) == "0.000000 (dev) disconnected: the tap has ended"


def test_a_violation_is_in_the_line() -> None:
    talk = Talk()
    talk.ask(99)
    assert line_of(talk.messages[0]).endswith(
        "[VU-F-0104: Each request has a defined id (message 99)]"
    )
