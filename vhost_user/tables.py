"""Documents that are made from the protocol's data.

    python -m vhost_user.tables docs/reference

writes ``messages.md`` there from the message table and ``ring-states.md`` from the ring states'
effects. A test fails when the files in the repository are stale.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from vhost_user.features import DEPENDENCIES, DIALECTS, ProtocolFeature
from vhost_user.message_spec import FdRule, MessageSpec, ReplyRule
from vhost_user.messages import BACKEND_MESSAGES, DIALECT_ROWS, FRONTEND_MESSAGES
from vhost_user.payload_layout import SHAPES, Payload
from vhost_user.states import ALL_STATES, EFFECTS, TRANSITIONS, RingEvent, RingState, state_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

_NOTE = "<!-- Made by `make docs` from vhost_user.tables: edit the data instead. -->"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def _kinds(kinds: Iterable[type[Payload] | None]) -> str:
    return " or ".join(str(kind.__name__) if kind else "empty" for kind in kinds) or "-"


def _reply(row: MessageSpec) -> str:
    if row.reply is ReplyRule.ACK:
        return str(row.reply.value)
    text = f"{row.reply.value}: {_kinds(row.reply_payload)}"
    return text if row.reply_fds is FdRule.NONE else f"{text}; descriptors: {row.reply_fds.value}"


def _effect(row: MessageSpec) -> str:
    if row.reply_effect is not None:
        return f"by its reply: {row.reply_effect.value}"
    return row.effect.value if row.effect is not None else ""


def _row(row: MessageSpec) -> list[str]:
    notes = [row.source] if row.source else []
    if row.unsupported:
        notes.append(f"**not supported**: {row.unsupported}")
    return [
        str(int(row.id)),
        f"`{row.name}`",
        _kinds(row.payload),
        row.fds.value,
        _reply(row),
        str(row.gate),
        _effect(row),
        "; ".join(notes),
    ]


def _messages(rows: Iterable[MessageSpec]) -> list[str]:
    head = (
        "id",
        "message",
        "payload",
        "descriptors",
        "reply",
        "needs",
        "effect",
        "source and notes",
    )
    return _table(head, map(_row, rows))


def _sizes() -> list[str]:
    rows = []
    for kind, shape in SHAPES.items():
        fixed = shape.smallest == shape.largest
        size = str(shape.largest) if fixed else f"{shape.smallest} to {shape.largest}"
        rows.append([kind.__name__, size, ", ".join(f"`{name}`" for name in shape.fields)])
    return _table(("payload", "bytes", "fields"), rows)


def _features() -> list[str]:
    rows = [
        [
            str(feature.bit_length() - 1),
            str(feature.name),
            _names(DEPENDENCIES.get(feature, ProtocolFeature(0))),
        ]
        for feature in ProtocolFeature
    ]
    return _table(("bit", "protocol feature", "needs"), rows)


def _names(features: ProtocolFeature) -> str:
    return ", ".join(str(feature.name) for feature in features)


def _dialects() -> list[str]:
    rows = [
        [
            dialect.name,
            ", ".join(f"{name} = bit {bit}" for name, bit in dialect.bits.items()) or "-",
            ", ".join(f"{number} = {name}" for number, name in dialect.messages.items()),
            dialect.source,
        ]
        for dialect in DIALECTS.values()
    ]
    return _table(("dialect", "protocol features", "messages", "source"), rows)


def messages_document() -> str:
    """The text of ``docs/reference/messages.md``."""
    lines = [
        "# vhost-user messages",
        "",
        _NOTE,
        "",
        "A message is a header of three 32-bit words in host byte order (id, flags, bytes of",
        "payload) and a payload. Acknowledgements are a U64, 0 for success. *needs* is the",
        "protocol feature that has to be negotiated, or a condition on a feature bit. Where the",
        "last column is empty, the specification's text is complete.",
        "",
        "## From the front-end",
        "",
        *_messages(FRONTEND_MESSAGES.values()),
        "",
        "## From the back-end, on a socket of its own",
        "",
        *_messages(BACKEND_MESSAGES.values()),
        "",
        "## Payloads",
        "",
        *_sizes(),
        "",
        "## Protocol features",
        "",
        *_features(),
        "",
        "## Dialects",
        "",
        "Specifications and implementations disagree on these numbers; a session uses one dialect.",
        "",
        *_dialects(),
        "",
        *_messages(DIALECT_ROWS.values()),
    ]
    return "\n".join(lines) + "\n"


def _node(state: RingState) -> str:
    return state_name(state).replace(", ", "_")


def _diagram() -> list[str]:
    """A mermaid diagram: an arrow for each change of state, with all its events."""
    arrows: dict[tuple[RingState, RingState], list[str]] = {}
    for (state, event), after in TRANSITIONS.items():
        if after != state:
            arrows.setdefault((state, after), []).append(event.value)
    lines = ["```mermaid", "stateDiagram-v2"]
    lines += [f'    state "{state_name(state)}" as {_node(state)}' for state in ALL_STATES]
    lines.append(f"    [*] --> {_node(RingState.NONE)}")
    for (state, after), events in arrows.items():
        lines.append(f"    {_node(state)} --> {_node(after)}: {'<br>'.join(events)}")
    return [*lines, "```"]


def _effects() -> list[str]:
    rows = [
        [event.value, _bits(effect.sets), _bits(effect.clears), effect.source]
        for event, effect in EFFECTS.items()
    ]
    return _table(("event", "sets", "clears", "source"), rows)


def _bits(state: RingState) -> str:
    return ", ".join(str(bit.name).lower() for bit in state) or "-"


def _transitions() -> list[str]:
    rows = [
        [event.value, *(state_name(TRANSITIONS[state, event]) for state in ALL_STATES)]
        for event in RingEvent
    ]
    return _table(("event", *map(state_name, ALL_STATES)), rows)


def ring_states_document() -> str:
    """The text of ``docs/reference/ring-states.md``."""
    lines = [
        "# The states of a vring",
        "",
        _NOTE,
        "",
        "A ring has two independent bits, started and enabled. Both are clear at first. While it",
        "is stopped nothing is processed, enabled or not; while it is started and disabled,",
        "requests are processed without effects (a NIC drops what the guest sends, and receives",
        "nothing).",
        "",
        *_diagram(),
        "",
        "## The effect of each event, in any state",
        "",
        *_effects(),
        "",
        "## The state after each event",
        "",
        *_transitions(),
    ]
    return "\n".join(lines) + "\n"


#: File name to the function that returns its text.
DOCUMENTS: dict[str, Callable[[], str]] = {
    "messages.md": messages_document,
    "ring-states.md": ring_states_document,
}


def main(arguments: Sequence[str]) -> int:
    """Write the documents into a directory; returns the exit status."""
    if len(arguments) != 1 or not Path(arguments[0]).is_dir():
        sys.stderr.write("usage: python -m vhost_user.tables DIRECTORY\n")
        return 2
    for name, document in DOCUMENTS.items():
        path = Path(arguments[0]) / name
        path.write_text(document(), encoding="utf-8")
        sys.stdout.write(f"{path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
