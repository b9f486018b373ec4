"""A message as a line of a transcript: its name, its flags, and its payload field by field.

The payloads are decoded by the library's message table; a payload that is not exactly what the
table has for the message is shown as bytes. No verdict depends on this text.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from vhost_user.codec import NEED_REPLY, REPLY, VERSION
from vhost_user.features import ProtocolFeature
from vhost_user.messages import BACKEND_MESSAGES, FRONTEND_MESSAGES
from vhost_user.payload_layout import PayloadError
from vhost_user.payloads import VRING_NO_FD

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from vhost_user.message_spec import MessageSpec

_BY_NAME: dict[str, MessageSpec] = {
    spec.name: spec for spec in (*BACKEND_MESSAGES.values(), *FRONTEND_MESSAGES.values())
}
#: Bytes of a payload, or of a field, that are shown.
_SHOWN = 24
#: Elements of a list that are shown.
_ELEMENTS = 8
#: A larger number is an address or a mask, and is written in hexadecimal.
_LARGEST_DECIMAL = 0xFFFF
_FEATURES = ("GET_FEATURES", "SET_FEATURES")
_PROTOCOL_FEATURES = ("GET_PROTOCOL_FEATURES", "SET_PROTOCOL_FEATURES")
_RING_FDS = ("SET_VRING_KICK", "SET_VRING_CALL", "SET_VRING_ERR")


def message_text(
    number: int, flags: int, payload: bytes, fds: int, names: Mapping[int, str]
) -> str:
    """The message in one line.

    Args:
        number: its id.
        flags: of its header.
        payload: its bytes.
        fds: how many descriptors came with it.
        names: of the messages of this direction, by id.
    """
    name = names.get(number, f"id {number}")
    marks = [] if flags & 3 == VERSION else [f"flags {flags:#x}"]
    marks += ["reply"] * bool(flags & REPLY) + ["need_reply"] * bool(flags & NEED_REPLY)
    marks += [f"flags {flags:#x}"] * bool(flags >> 4)
    parts = [name, *marks, payload_text(name, payload, reply=bool(flags & REPLY))]
    if fds:
        parts.append(f"({fds} descriptor{'s' * (fds > 1)})")
    return " ".join(part for part in parts if part)


def payload_text(name: str, payload: bytes, *, reply: bool = False) -> str:
    """The fields of a payload, or its bytes where it cannot be decoded; "" if there is none.

    Args:
        name: of the message, without the prefix ``VHOST_USER_``.
        payload: its bytes.
        reply: it is the payload of a reply.
    """
    if not payload:
        return ""
    decoded = _decode(name, payload, reply=reply)
    if decoded is None:
        return f"{len(payload)} bytes {_hex(payload)}"
    fields = list(_fields(decoded))
    if [field for field, _ in fields] == ["value"]:
        return _number(name, fields[0][1])
    return ", ".join(_field(field, value) for field, value in fields)


def _decode(name: str, payload: bytes, *, reply: bool) -> Any:
    """The payload as the table's type, if its bytes are just that."""
    spec = _BY_NAME.get(name)
    if spec is None:
        return None
    acknowledgement = _BY_NAME["GET_FEATURES"].reply_payload
    forms = (spec.reply_payload or acknowledgement) if reply else spec.payload
    for form in forms:
        if form is None:
            continue
        try:
            decoded = form.unpack(payload)
            if decoded.pack() == payload:
                return decoded
        except (PayloadError, ValueError):
            continue
    return None


def _fields(decoded: Any) -> Iterator[tuple[str, Any]]:
    if dataclasses.is_dataclass(decoded):
        names = [field.name for field in dataclasses.fields(decoded)]
    else:
        names = list(decoded._fields)
    return ((name, getattr(decoded, name)) for name in names)


def _field(name: str, value: Any) -> str:
    if isinstance(value, tuple | list) and not hasattr(value, "_fields"):
        shown = "; ".join(map(_plain, value[:_ELEMENTS]))
        return f"{name} [{shown}{'; ...' * (len(value) > _ELEMENTS)}]"
    return f"{name} {_plain(value)}"


def _plain(value: Any) -> str:
    if isinstance(value, bytes):
        return f"({len(value)} bytes) {_hex(value)}".rstrip()
    if isinstance(value, int):
        return str(int(value)) if 0 <= value <= _LARGEST_DECIMAL else f"{value:#x}"
    return ", ".join(_field(name, inner) for name, inner in _fields(value))


def _number(name: str, value: int) -> str:
    """A payload of one number: what it is depends on the message."""
    if name in _FEATURES:
        return f"{value:#x}"
    if name in _PROTOCOL_FEATURES:
        known = [feature.name for feature in ProtocolFeature if feature & value and feature.name]
        return f"{value:#x} {'|'.join(known)}".rstrip()
    if name in _RING_FDS and value <= VRING_NO_FD | 0xFF:
        return f"ring {value & 0xFF}" + ", no descriptor" * bool(value & VRING_NO_FD)
    return _plain(value)


def _hex(data: bytes) -> str:
    return data[:_SHOWN].hex(" ", -4) + (" ..." if len(data) > _SHOWN else "")
