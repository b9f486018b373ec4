"""The objects of the JSON log, and that the documentation has their fields."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import json
from pathlib import Path

from emu.tap.connection import Sender, Unreadable
from emu.tap.json_log import head, line_of
from emu.tap.proxy import Pair
from tests.emu.tap.talk import F, Talk
from vhost_user.payloads import U64, VringState

DOCUMENT = Path(__file__).parents[3] / "docs" / "reference" / "emu-tap.md"


def test_objects_of_a_conversation() -> None:
    talk = Talk(pids=(12, 34))
    talk.ask(F.GET_VRING_BASE, VringState(2, 0))
    talk.answer(F.GET_VRING_BASE, VringState(2, 9))
    talk.ask(F.SET_FEATURES, b"abc")
    size = "VU-F-0111: The payload of SET_FEATURES has the specified size (SET_FEATURES)"
    assert talk.messages[2].violations == [size]
    talk.messages[0].violations.clear()
    talk.reader.take(Unreadable(talk.connection, Sender.FRONT_END, False, 4000, "why"))
    talk.close()
    objects = [json.loads(line_of(record)) for record in talk.records]
    common = {"device": "dev", "channel": "main"}
    asked = {**common, "sender": "front-end", "flags": 1, "fds": 0}
    base = {"id": 11, "name": "VHOST_USER_GET_VRING_BASE", "size": 8, "ring": 2}
    assert objects == [
        {
            "event": "connected", "time_ns": 0, "device": "dev",
            "front_end_pid": 12, "back_end_pid": 34,
        },
        {
            "event": "request", "time_ns": 1000, **asked, **base,
            "fields": {"ring": 2, "num": 0}, "reply_due": True,
        },
        {
            "event": "reply", "time_ns": 2000, **common, "sender": "back-end", "flags": 5, "fds": 0,
            **base, "fields": {"ring": 2, "num": 9}, "latency_ns": 1000,
        },
        {
            "event": "request", "time_ns": 3000, **asked, "id": 2,
            "name": "VHOST_USER_SET_FEATURES", "size": 3, "error": "has no payload of 3 bytes",
            "reply_due": False, "violations": [size],
        },
        {"event": "unreadable", "time_ns": 4000, **common, "sender": "front-end", "why": "why"},
        {"event": "disconnected", "time_ns": 3000, "device": "dev", "by": "front-end"},
    ]  # fmt: skip


def test_the_first_line_has_both_clocks() -> None:
    made = json.loads(head([Pair("dev", "/a", "/b")]))
    assert made["pairs"] == [{"device": "dev", "listen": "/a", "connect": "/b"}]
    assert made["unix_time_ns"] > made["time_ns"] > 0


def test_the_documentation_has_every_field() -> None:
    talk = Talk()
    talk.ask(F.GET_VRING_BASE, VringState(2, 0))
    talk.answer(F.GET_VRING_BASE, VringState(2, 9))
    talk.ask(F.SET_FEATURES, b"abc")
    talk.answer(F.GET_FEATURES, U64(1))
    talk.reader.take(Unreadable(talk.connection, Sender.FRONT_END, False, 4000, "why"))
    talk.close()
    lines = [head([]), *map(line_of, talk.records)]
    fields = {field for line in lines for field in json.loads(line)}
    text = DOCUMENT.read_text(encoding="utf-8")
    assert [field for field in sorted(fields) if f"`{field}`" not in text] == []
