"""What both sides tell each other when the VM has moved: the other half of every figure.

The source shows the phases of both sides, and the destination what its guest had been served before
it came. All of it is news only: who does not hear of it any more has lost nothing but figures.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from emu.errors import MigrationError
from emu.migration import clocks
from emu.migration.stream import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from emu.migration.clocks import Offset, Probe
    from emu.migration.stream import MigrationStream
    from emu.qmp.protocol import JsonObject


def say(stream: MigrationStream, news: JsonObject) -> None:
    """Tell the other side.

    Raises:
        MigrationError: it has gone.
    """
    stream.send(Kind.FAREWELL, json.dumps(news).encode())


def hear(stream: MigrationStream) -> JsonObject:
    """What the other side tells.

    Raises:
        MigrationError: it has gone, or tells nothing that makes sense.
    """
    kind, _, payload = stream.receive()
    if kind is not Kind.FAREWELL:
        raise MigrationError("stream", f"{kind.name} came where FAREWELL was due")
    try:
        news = json.loads(payload)
    except ValueError:
        news = None
    if not isinstance(news, dict):
        raise MigrationError("stream", "a FAREWELL that makes no sense")
    return news


def bid(
    stream: MigrationStream,
    start_ns: int,
    before: Sequence[Probe],
    news: Callable[[int, Offset], JsonObject],
) -> JsonObject:
    """The source's part.

    Args:
        stream: to the destination.
        start_ns: when the blackout began, by this clock.
        before: round trips that were made before it; empty when both read the same clock.
        news: makes what the destination is told, of the downtime in nanoseconds and the offset
            of the clocks.

    Returns:
        What the destination told, ``downtime_ns``, ``downtime_error_ns`` (None on one clock), and
        ``offset_ns``: how far its clock is ahead.

    Raises:
        MigrationError: it has gone, or tells nothing that makes sense.
    """
    after = clocks.probe(stream) if before else []
    told = hear(stream)
    try:
        end = int(told["marks"]["running_ns"])
    except (KeyError, TypeError, ValueError):
        raise MigrationError("stream", "a FAREWELL without the end of the blackout") from None
    offset = clocks.Offset()
    if before:
        rough = clocks.estimate(after, after[0].begin)
        offset = clocks.estimate([*before, *after], end - rough.ns)
    downtime = end - offset.ns - start_ns
    say(stream, news(downtime, offset))
    return {
        **told,
        "downtime_ns": downtime,
        "offset_ns": offset.ns,
        "downtime_error_ns": None if offset.same else offset.error_ns,
    }


def take(stream: MigrationStream, *, same_clock: bool, news: JsonObject) -> JsonObject:
    """The destination's part: tell what is to be told, and return what the source tells.

    Raises:
        MigrationError: the source has gone, or tells nothing that makes sense.
    """
    if not same_clock:
        clocks.answer(stream)
    say(stream, news)
    return hear(stream)
