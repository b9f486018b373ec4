"""The completion reports, which both sides exchange after the migration has completed.

The source receives the phases of the destination, and the destination the request counters of the
source's back-ends. The VM already runs at the destination: a lost report affects figures only.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from emu.errors import MigrationError, Operation
from emu.json_input import Each, JsonInputError, Maybe, Members, Row, Whole, read
from emu.migration import clocks
from emu.migration.stream import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from emu.json_input import Shape
    from emu.migration.clocks import Offset, RoundTrip
    from emu.migration.stream import MigrationStream
    from emu.qmp.protocol import JsonObject


#: Times are nanoseconds of CLOCK_MONOTONIC, which starts at 0 when a host boots.
_NS = Whole(most=(1 << 63) - 1)
_DURATION = Whole(-(1 << 62), 1 << 62)
OF_DESTINATION = Members(
    {
        "spans": Each(Row(str, str, str, Maybe(int), str, _NS, _NS, Whole(), bool)),
        "marks": Members({"running_ns": _NS}),
        "commits": Whole(),
        "guest_gap_ns": _DURATION,
    }
)
OF_SOURCE = Members(
    {
        "strategy": str,
        "downtime_ns": _DURATION,
        "downtime_error_ns": Maybe(_DURATION),
        "precopy": Members({"bytes": Whole(), "rounds": Whole()}),
    },
    {"served": Maybe(Whole())},
)


def send(stream: MigrationStream, report: JsonObject) -> None:
    """Send a report.

    Raises:
        MigrationError: the other side has disconnected.
    """
    stream.send(Kind.COMPLETION, json.dumps(report).encode())


def receive(stream: MigrationStream, shape: Shape) -> JsonObject:
    """The report of the other side: `OF_SOURCE` or `OF_DESTINATION`.

    Raises:
        MigrationError: it has disconnected, or its report is invalid.
    """
    kind, _, payload = stream.receive()
    if kind is not Kind.COMPLETION:
        raise MigrationError(Operation.STREAM, f"received {kind.name}, expected COMPLETION")
    try:
        report: JsonObject = read(payload, shape)
    except JsonInputError as error:
        raise MigrationError(Operation.STREAM, f"an invalid COMPLETION: {error}") from None
    return report


def exchange_at_source(
    stream: MigrationStream,
    start_ns: int,
    before: Sequence[RoundTrip],
    report: Callable[[int, Offset], JsonObject],
) -> JsonObject:
    """Compute the downtime from the destination's report, and send this side's.

    Args:
        stream: to the destination.
        start_ns: when the blackout began, by this side's clock.
        before: round trips that were made before it; empty when both sides read the same clock.
        report: makes this side's report from the downtime, in nanoseconds, and the offset of the
            clocks.

    Returns:
        The destination's report, with ``downtime_ns``, ``downtime_error_ns`` (None on one clock),
        and ``offset_ns``: how far its clock is ahead.

    Raises:
        MigrationError: the destination has disconnected, or its report is invalid.
    """
    after = clocks.probe(stream) if before else []
    received = receive(stream, OF_DESTINATION)
    end = received["marks"]["running_ns"]
    offset = clocks.Offset()
    if before:
        rough = clocks.estimate(after, after[0].begin)
        offset = clocks.estimate([*before, *after], end - rough.ns)
    downtime = end - offset.ns - start_ns
    send(stream, report(downtime, offset))
    return {
        **received,
        "downtime_ns": downtime,
        "offset_ns": offset.ns,
        "downtime_error_ns": None if offset.same else offset.error_ns,
    }


def exchange_at_destination(
    stream: MigrationStream, *, same_clock: bool, report: JsonObject
) -> JsonObject:
    """Send this side's report and return the source's.

    Raises:
        MigrationError: the source has disconnected, or its report is invalid.
    """
    if not same_clock:
        clocks.answer(stream)
    send(stream, report)
    return receive(stream, OF_SOURCE)
