"""A stop or a start as a table, and as an object for JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.text import Text

from emu.report.cells import counted, milliseconds, new_table
from emu.tap.what_if import what_if

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from emu.tap.transitions import Row, Transition
    from emu.tap.what_if import Estimate

#: Devices that the table names.
SLOWEST = 5


def title(transition: Transition) -> str:
    """``stop of 24 devices, 96 rings: 7.70 ms``, and what came before."""
    text = (
        f"{'set-up' if transition.is_ahead else transition.kind} of "
        f"{counted(len(transition.devices), 'device')}, "
        f"{counted(transition.rings, 'ring')}"
        f"{' ahead of their start' if transition.is_ahead else ''}: "
        f"{_ms(transition.end - transition.start)} ms"
    )
    before = transition.before
    if before is not None:
        what = "migration" if transition.is_migration else "stop and start"
        text += f"; the {what}: {_ms(transition.end - before.start)} ms from the stop's beginning"
    return text


def order(row: Row) -> str:
    """``serial``, or how many devices overlapped."""
    return "serial" if row.at_once == 1 else f"{row.at_once} devices at once"


def render(transition: Transition, *, plain: bool) -> RenderableType:
    """The rows, and the slowest devices."""
    heading = Text(title(transition), style="" if plain else "bold", overflow="fold")
    table = new_table(None, plain=plain)
    table.add_column("row")
    for name in ("wall ms", "replies ms", "messages"):
        table.add_column(name, justify="right")
    table.add_column("devices")
    for row in transition.rows:
        table.add_row(row.phase.title, _ms(row.wall), _ms(row.busy), str(row.messages), order(row))
    if len(transition.devices) == 1:
        return Group(heading, table)
    parts: list[RenderableType] = [heading, table, _slowest(transition, plain=plain)]
    if estimates := what_if(transition):
        parts.append(_estimates(estimates, plain=plain))
    return Group(*parts)


def _estimates(estimates: list[Estimate], *, plain: bool) -> Table:
    """What other strategies would have made of it."""
    table = new_table(None, plain=plain)
    table.add_column("what if, ms of replies")
    for threads in ("a thread per device", "per process", "for all"):
        table.add_column(threads, justify="right")
    for estimate in estimates:
        times = estimate.apart, estimate.processes, estimate.together
        table.add_row(estimate.strategy, *map(_ms, times))
    return table


def _slowest(transition: Transition, *, plain: bool) -> Table:
    """The devices that took longest, with their rows."""
    walls: dict[str, int] = dict.fromkeys(transition.devices, 0)
    for span in transition.spans.values():
        walls[span.device] += span.wall
    first = sorted(walls, key=lambda device: -walls[device])[:SLOWEST]
    table = new_table(None, plain=plain)
    table.add_column("slowest devices")
    for row in transition.rows:
        table.add_column(f"{row.phase.title} ms", justify="right")
    table.add_column("slowest reply")
    for device in first:
        spans = {row.phase: transition.spans.get((row.phase, device)) for row in transition.rows}
        cells = [_ms(span.wall) if span else "-" for span in spans.values()]
        latencies = [latency for span in spans.values() if span for latency in span.latencies]
        table.add_row(device, *cells, f"{_ms(max(latencies))} ms" if latencies else "-")
    return table


def object_of(transition: Transition) -> dict[str, Any]:
    """The object of the JSON log."""
    return {
        "event": str(transition.kind),
        "front_end_pid": transition.front_pid,
        "time_ns": transition.start,
        "end_ns": transition.end,
        "since_ns": transition.before.start if transition.before else None,
        "migration": transition.is_migration,
        "ahead": transition.is_ahead,
        "rings": transition.rings,
        "what_if": [
            {
                "strategy": estimate.strategy,
                "apart_ns": estimate.apart,
                "processes_ns": estimate.processes,
                "together_ns": estimate.together,
            }
            for estimate in what_if(transition)
        ],
        "rows": [
            {
                "row": row.phase.title,
                "wall_ns": row.wall,
                "replies_ns": row.busy,
                "messages": row.messages,
                "at_once": row.at_once,
                "devices": [
                    {
                        "device": span.device,
                        "time_ns": span.start,
                        "end_ns": span.end,
                        "replies_ns": span.busy,
                        "messages": span.messages,
                        "rings": {str(ring): taken for ring, taken in sorted(span.rings.items())},
                    }
                    for span in row.spans
                ],
            }
            for row in transition.rows
        ],
    }


def _ms(nanoseconds: int) -> str:
    return milliseconds(nanoseconds / 1e6)
