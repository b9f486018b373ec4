"""What each device does now: messages per second, the slowest request, ring states."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from rich import box
from rich.live import Live
from rich.table import Table
from rich.text import Text

from emu.report.cells import counted, milliseconds
from emu.tap.connection import Closed
from emu.tap.message import Message

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Console

    from emu.tap.reader import Reader, Record
    from emu.tap.session import RingCount

#: Lines of the terminal that are no rows of devices.
_BESIDES = 6


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
        for device in sorted((self._messages.keys() - connected) | sessions.keys()):
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


def table(rows: list[DeviceRow], room: int) -> Table:
    """The table of the first rows, as many as there is room for."""
    left_out = len(rows) - room
    more = f"and {counted(left_out, 'more device')}; " if left_out > 0 else ""
    caption = f"{more}Ctrl-C ends the tap, and with it the connections"
    made = Table(box=box.SIMPLE_HEAD, caption=caption, padding=(0, 0, 0, 1))
    # Columns that may wrap are made narrower where there is no room; their cells do not wrap.
    made.add_column("device")
    for name in ("messages/s", "messages", "replies\ndue"):
        made.add_column(name, justify="right", no_wrap=True)
    made.add_column("slowest reply", justify="right")
    made.add_column("rings started,\nenabled", justify="right", no_wrap=True)
    for row in rows[:room]:
        made.add_row(
            _cut(row.device),
            f"{row.rate:,.0f}",
            f"{row.messages:,}",
            str(row.waiting),
            _cut(f"{milliseconds(row.slowest.latency / 1e6)} ms {row.slowest.name}")
            if row.slowest
            else "-",
            f"{row.rings.started}/{row.rings.enabled} of {row.rings.known}"
            if row.rings
            else "not connected",
        )
    return made


def _cut(text: str) -> Text:
    return Text(text, no_wrap=True, overflow="ellipsis")


class DeviceView:
    """The table on a terminal, drawn again and again; a context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=True)

    def show(self, rows: list[DeviceRow]) -> None:
        """Draw it."""
        if not self._live.is_started:
            self._live.start()
        self._live.update(table(rows, max(1, self._console.height - _BESIDES)), refresh=True)

    def close(self) -> None:
        """Remove it."""
        self._live.stop()
