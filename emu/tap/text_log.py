"""The text log: a line for each message, with the names and numbers that peers' logs have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emu.tap.connection import Opened, Sender, Unreadable
from emu.tap.message import Message
from vhost_user.tracing import stamp

if TYPE_CHECKING:
    from emu.tap.reader import Record


def line_of(record: Record) -> str:
    """One line, without its end."""
    if isinstance(record, Message):
        return f"{stamp(record.time)} ({record.device}) {message_text(record)}"
    head = f"{stamp(record.time)} ({record.connection.name})"
    if isinstance(record, Opened):
        return f"{head} connected"
    if isinstance(record, Unreadable):
        return f"{head} {record.sender.value}: no longer decoded: {record.why}"
    return f"{head} disconnected: {record.reason or 'by the ' + record.sender.value}"


def message_text(message: Message) -> str:
    """``-> VHOST_USER_SET_VRING_NUM req:8 flags:0x1 size:8 ring:0 num:256``."""
    parts = [
        "->" if message.sender is Sender.FRONT_END else "<-",
        message.full_name,
        f"req:{message.id}",
        f"flags:{message.flags:#x}",
        f"size:{message.size}",
    ]
    if message.fds:
        parts.append(f"fds:{message.fds}")
    fields = message.fields
    if message.ring is not None and "ring" not in fields:
        parts.append(f"ring:{message.ring}")
    parts += [f"{name}:{_text(value)}" for name, value in fields.items()]
    if message.error:
        parts.append(f"({message.error})")
    if message.latency is not None:
        parts.append(f"after {message.latency / 1000:.0f} us")
    parts += [f"[{violation}]" for violation in message.violations]
    return " ".join(parts)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + " ".join(f"{name}:{_text(each)}" for name, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_text, value)) + "]"
    text = str(value)
    return f"00*{len(text) // 2}" if len(text) > 8 and set(text) == {"0"} else text
