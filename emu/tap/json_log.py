"""The log as JSON Lines: an object for each message and each event."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from emu.tap.connection import Opened, Unreadable
from emu.tap.message import Message
from emu.tap.summary import described

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emu.tap.proxy import Pair
    from emu.tap.reader import Record

#: Changes when a field changes its meaning or goes away; further fields may be added.
SCHEMA = 1


def head(pairs: Sequence[Pair]) -> str:
    """The first line: what is tapped, and the wall clock at a time of the other lines."""
    return line(
        {
            "event": "tap",
            "schema": SCHEMA,
            "time_ns": time.monotonic_ns(),
            "unix_time_ns": time.time_ns(),
            **described(pairs),
        }
    )


def line_of(record: Record) -> str:
    """One line, without its end."""
    return line(object_of(record))


def object_of(record: Record) -> dict[str, Any]:
    """The object of a line; docs/reference/emu-tap.md has its fields."""
    if isinstance(record, Message):
        return _message(record)
    common = {"time_ns": record.time, "device": record.connection.name}
    if isinstance(record, Opened):
        pids = {"front_end_pid": record.front_pid, "back_end_pid": record.back_pid}
        return {"event": "connected", **common, **pids}
    if isinstance(record, Unreadable):
        return {
            "event": "unreadable",
            **common,
            "sender": record.sender.value,
            "channel": _channel(on_channel=record.on_channel),
            "why": record.why,
        }
    by = record.reason or record.sender.value
    return {"event": "disconnected", **common, "by": by}


def _message(message: Message) -> dict[str, Any]:
    made: dict[str, Any] = {
        "event": "reply" if message.is_reply else "request",
        "time_ns": message.time,
        "device": message.device,
        "sender": message.sender.value,
        "channel": _channel(on_channel=message.on_channel),
        "id": message.id,
        "name": message.full_name,
        "flags": message.flags,
        "size": message.size,
        "fds": message.fds,
    }
    if message.ring is not None:
        made["ring"] = message.ring
    if message.payload is not None:
        made["fields"] = message.fields
    if message.error:
        made["error"] = message.error
    if message.is_reply:
        made["latency_ns"] = message.latency
    else:
        made["reply_due"] = message.reply_due
    if message.violations:
        made["violations"] = message.violations
    return made


def _channel(*, on_channel: bool) -> str:
    return "back-end" if on_channel else "main"


def line(value: dict[str, Any]) -> str:
    """An object as one line, without its end."""
    return json.dumps(value, separators=(",", ":"))
