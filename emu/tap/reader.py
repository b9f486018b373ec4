"""Reads along: turns what a proxy reports into decoded messages, for logs, tables and pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.tap.connection import Arrived, Closed, Opened, Unreadable
from emu.tap.message import Message
from emu.tap.rules import Judge
from emu.tap.session import ObservedSession

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from emu.tap.connection import Connection, Event

#: What a sink takes: messages in place of `Arrived`, and the other events as they are.
Record = Message | Opened | Unreadable | Closed


class Reader:
    """The observer of a proxy.

    Args:
        sinks: each is called with each record, in order.

    Attributes:
        sessions: of the connections that are open, by name.
    """

    def __init__(self, sinks: Sequence[Callable[[Record], None]]) -> None:
        self._sinks = sinks
        self._by_connection: dict[Connection, ObservedSession] = {}
        self._judges: dict[Connection, Judge] = {}

    @property
    def sessions(self) -> dict[str, ObservedSession]:
        """See the class."""
        return {session.name: session for session in self._by_connection.values()}

    def take(self, event: Event) -> None:
        """Decode what has arrived, and pass it on."""
        record: Record | None = None
        if isinstance(event, Arrived):
            record = self._message(event)
        else:
            if isinstance(event, Opened):
                connection = event.connection
                session = ObservedSession(connection.name, connection.pair)
                self._by_connection[event.connection] = session
                self._judges[event.connection] = Judge(session)
            elif isinstance(event, Closed):
                self._by_connection.pop(event.connection, None)
                self._judges.pop(event.connection, None)
            record = event
        if record is not None:
            for sink in self._sinks:
                sink(record)

    def _message(self, event: Arrived) -> Message | None:
        """None for what comes on the back-end channel of a connection that has ended."""
        session = self._by_connection.get(event.connection)
        if session is None:
            return None
        message = session.read(event.message, event.sender, on_channel=event.on_channel)
        judge = self._judges[event.connection]
        if message.is_reply:
            judge.reply(message, session.apply(message))
        else:
            judge.request(message)
            session.apply(message)
        return message
