"""How much a tap has forwarded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.report.cells import counted
from emu.tap.connection import Opened
from emu.tap.message import Message

if TYPE_CHECKING:
    from emu.tap.reader import Record


class Traffic:
    """Counts connections and messages.

    Attributes:
        connections: that were opened.
        messages: that were read, of both directions and of back-end channels.
    """

    def __init__(self) -> None:
        self.connections = 0
        self.messages = 0

    def take(self, record: Record) -> None:
        """Count a record; a sink of a `Reader`."""
        if isinstance(record, Message):
            self.messages += 1
        elif isinstance(record, Opened):
            self.connections += 1

    def summary(self) -> str:
        """One line without a full stop."""
        return f"{counted(self.connections, 'connection')}, {counted(self.messages, 'message')}"
