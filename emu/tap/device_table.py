"""What each device does now: messages per second, the slowest request, ring states."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from rich import box
from rich.table import Table
from rich.text import Text

from emu.report.cells import fitting, milliseconds, natural, remainder, rows_with_room
from emu.tap.connection import Closed
from emu.tap.message import Message
from vhost_user.live_region import LiveRegion

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from rich.console import Console

    from emu.tap.reader import Reader, Record
    from emu.tap.session import RingCount


class Slowest(NamedTuple):
    """A request and the nanoseconds that its reply took."""

    latency: int
    name: str


class DeviceRow(NamedTuple):
    """One connection, or a pair that has none.

    Attributes:
        device: its name.
        rate: messages per second since the last table.
        messages: all of the connection; of the pair, those of the connections that have ended.
        waiting: requests whose replies are due.
        slowest: request, or None.
        rings: None while the device is not connected.
    """

    device: str
    rate: float
    messages: int
    waiting: int
    slowest: Slowest | None
    rings: RingCount | None


class DeviceCounts:
    """Counts the messages of each device; a sink of a `Reader`.

    What a connection has counted becomes its pair's when it ends: a front-end may connect again for
    weeks.

    Args:
        pairs: names of those that have a row before they are connected.
    """

    def __init__(self, pairs: Iterable[str] = ()) -> None:
        self._messages: Counter[str] = Counter(dict.fromkeys(pairs, 0))
        self._before: Counter[str] = Counter()
        self._slowest: dict[str, Slowest] = {}

    def take(self, record: Record) -> None:
        """Count a message."""
        if isinstance(record, Closed):
            self._add(record.connection.name, record.connection.pair)
        if not isinstance(record, Message):
            return
        self._messages[record.device] += 1
        latency = record.latency
        if latency is None:
            return
        self._note(record.device, Slowest(latency, record.name))

    def _note(self, device: str, reply: Slowest) -> None:
        known = self._slowest.get(device)
        if known is None or reply.latency > known.latency:
            self._slowest[device] = reply

    def _add(self, device: str, pair: str) -> None:
        """Add what a connection has counted to what its pair has."""
        if device == pair:
            return
        for counts in (self._messages, self._before):
            if number := counts.pop(device, 0):
                counts[pair] += number
        if reply := self._slowest.pop(device, None):
            self._note(pair, reply)

    def rows(self, reader: Reader, seconds: float) -> list[DeviceRow]:
        """A row for each device, the busiest first; ``seconds`` have passed since the last ones."""
        sessions = reader.sessions
        connected = {session.pair for session in sessions.values()}
        rows = []
        for device in sorted((self._messages.keys() - connected) | sessions.keys(), key=natural):
            session = sessions.get(device)
            count = self._messages[device]
            rows.append(
                DeviceRow(
                    device,
                    (count - self._before[device]) / seconds,
                    count,
                    session.outstanding if session else 0,
                    self._slowest.get(device),
                    session.ring_count if session else None,
                )
            )
        self._before = Counter(self._messages)
        return sorted(rows, key=lambda row: -row.rate)


def table(rows: list[DeviceRow], room: int, width: int) -> Table:
    """The table of the first rows.

    Args:
        rows: all of them.
        room: as many are shown at most.
        width: columns of the terminal.
    """

    def build(left_out: Collection[str], *, narrow: bool = True) -> Table:
        made = Table(box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1), pad_edge=False, show_edge=False)
        for name, column in _COLUMNS.items():
            if name not in left_out:
                made.add_column(
                    column.head,
                    justify="right" if column.is_number else "left",
                    no_wrap=column.shortest is None,
                    max_width=column.shortest if narrow else None,
                )
        for row in rows[:room]:
            cells = _cells(row)
            made.add_row(*(cells[name] for name in _COLUMNS if name not in left_out))
        return made

    _, left_out = fitting(build, ("messages", "request", "replies due", "messages/s"), width)
    made = build(left_out, narrow=False)
    more = remainder(len(rows), room, left_out)
    made.caption = "; ".join([*more, "Ctrl-C ends the tap, and with it the connections"])
    return made


class _Column(NamedTuple):
    """A column of the table: ``shortest`` is the least width of one whose cells may be cut."""

    head: str
    is_number: bool = True
    shortest: int | None = None


#: Columns that may wrap are made narrower where there is no room; their cells do not wrap.
_COLUMNS = {
    "device": _Column("device", is_number=False, shortest=12),
    "messages/s": _Column("messages/s"),
    "messages": _Column("messages"),
    "replies due": _Column("replies\ndue"),
    "slowest reply": _Column("slowest\nreply\nms"),
    "request": _Column("its request", is_number=False, shortest=11),
    "rings": _Column("rings\nstarted,\nenabled"),
}


def _cells(row: DeviceRow) -> dict[str, str | Text]:
    slowest, rings = row.slowest, row.rings
    return {
        "device": _cut(row.device),
        "messages/s": f"{row.rate:,.0f}",
        "messages": f"{row.messages:,}",
        "replies due": str(row.waiting),
        "slowest reply": milliseconds(slowest.latency / 1e6) if slowest else "-",
        "request": _cut(slowest.name if slowest else ""),
        "rings": f"{rings.started}/{rings.enabled} of {rings.known}" if rings else "not connected",
    }


def _cut(text: str) -> Text:
    return Text(text, no_wrap=True, overflow="ellipsis")


class DeviceView:
    """The table on a terminal, drawn again and again; a context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = LiveRegion(console)

    def show(self, rows: list[DeviceRow]) -> None:
        """Draw it."""
        width, height = self._console.size
        room = rows_with_room(lambda room: table(rows, room, width), len(rows), width, height)
        self._live.show(table(rows, room, width))

    def close(self) -> None:
        """Remove it."""
        self._live.close()
